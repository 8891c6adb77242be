"""By a stored floor wrong logits are found in the phase they are in; near-ties and a correct engine's rows are not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.decode import DecodingVerdict, compare_decoding, decode_reference, noise_of_floor
from parity.decode.divergence import part_at
from parity.errors import UsageError
from parity.floor import Floor
from parity.floor.bins import Bin
from parity.floor.gate import Gate, Scale
from parity.runner import Request, open_runner
from tests.decode.conftest import Engine

Make = Callable[..., Any]
Spoil = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

TYPICAL, GATE = 0.02, 0.3
"""rel_l2 of the worst row of a usual clean run, and of a row that is just within the floor."""

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
FLAT = 0.02
"""Flattens the random model's logits, which name one token with certainty: no KL could be told from rounding."""

SHIPPED = {"fp8_block": "moe-tiny-fp8", "bf16": "moe-tiny"}
CLEAN = (DecodingVerdict.SAME, DecodingVerdict.NEAR_TIE)


def floor_of(info: Any, *, gate: float = GATE) -> Floor:
    """A floor that knows of logits alone: `TYPICAL` at z = 0 and `gate` at z = 1, at all positions of both phases."""
    centre = TYPICAL ** (2 / 3)
    scale = Scale(centre, gate ** (2 / 3) - centre, 10**9)
    keys = [Bin("free", "logits", None, "row", "rel_l2", phase, 9, -1) for phase in ("prefill", "decode")]
    return Floor(info.recipe, info.lineage, ("made up",), dict.fromkeys(keys, scale), {"free": Gate(1.0, (1.0,), 1e-3)})


def rows_of(vocab: int, *, far: float = TYPICAL, gap: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """[1, V] of an oracle and a SUT `far` away (rel_l2); ids 0 and 1 are the largest, `gap` units apart."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randn(1, vocab, generator=random, dtype=torch.float64).clamp(max=2.5)
    y[0, 0] = 4.0
    # One more step than one would do: the unit depends on the row that holds the second largest.
    for _ in range(3):
        y[0, 1] = 4.0 - gap * math.sqrt(2) * TYPICAL * float(y.square().mean().sqrt())
    error = torch.randn(1, vocab, generator=random, dtype=torch.float64)
    error[0, :2] = 0.0
    return y, y + error * far * y.norm() / error.norm()


def judged(y: torch.Tensor, x: torch.Tensor, info: Any, *, gate: float = GATE) -> Any:
    noise = noise_of_floor(floor_of(info, gate=gate), y, prompt=1, exact=True)
    return noise, part_at(0, y, x, noise=noise, prompt=1)


def test_the_unit_is_the_error_of_a_usual_clean_row(exact: Any):
    y, x = rows_of(80)
    noise, _ = judged(y, x, exact.describe())
    assert noise.unit[0] == pytest.approx(math.sqrt(2) * TYPICAL * float(y.square().mean().sqrt()))
    assert noise.row is not None
    assert noise.row[0] == pytest.approx(GATE, rel=1e-6)


@pytest.mark.parametrize("vocab", [31, 80, 81, 4096])
@pytest.mark.parametrize(("units", "near"), [(0.7, True), (0.95, True), (1.05, False), (2.0, False), (10.0, False)])
def test_one_wrong_logit_is_a_fault_past_the_limit_and_a_near_tie_below(
    exact: Any, vocab: int, units: float, near: bool
):
    info = exact.describe()
    y, x = rows_of(vocab, gap=0.5)
    noise, _ = judged(y, x, info)
    x[0, 1] += units * noise.limit * noise.unit[0]
    parting = judged(y, x, info)[1]
    assert (parting.oracle, parting.sut) == (0, 1)
    assert parting.units == pytest.approx(units * noise.limit, rel=1e-6)
    # However few the others are, the wrong logit does not count as the row's own error.
    assert parting.near_tie is near


@pytest.mark.parametrize("vocab", [80, 4096])
def test_a_row_that_is_far_off_as_a_whole_excuses_its_share_and_no_more(exact: Any, vocab: int):
    info = exact.describe()
    for far, units, near in ((5, 4.0, None), (5, 12.0, False), (1, 4.0, False), (5, 0.9, True)):
        y, x = rows_of(vocab, far=far * TYPICAL, gap=0.5)
        noise, _ = judged(y, x, info)
        x[0, 1] += units * noise.limit * noise.unit[0]
        parting = judged(y, x + 100.0, info)[1]  # a number added to all logits is no error
        assert parting.near_tie is near, (far, units)


def test_logits_of_something_else_are_no_near_tie_though_the_gate_lets_them_pass(exact: Any):
    """A gate past sqrt(2), where rows have nothing to do with each other, tells nothing of a row."""
    for seed in range(20):
        y, _ = rows_of(80, seed=seed)
        x = y[:, torch.randperm(80, generator=torch.Generator().manual_seed(seed))]
        _, parting = judged(y, x, exact.describe(), gate=1.9)
        assert parting.near_tie is not True or parting.oracle == parting.sut


def noisy(spoil: Spoil | None = None) -> Spoil:
    """Clean noise of `TYPICAL` on every row, the same at every run, and a fault on top."""

    def change(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        for row, at in enumerate(position.tolist()):
            error = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(at))
            logits[row] += error * (TYPICAL * 0.9 * logits[row].norm() / error.norm())
        return logits if spoil is None else spoil(logits, position)

    return change


def lifted(first: int, stop: int, units: float) -> Spoil:
    """The third largest logit comes out above the largest by that many units of the floor at those positions."""

    def change(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        for row in torch.nonzero((position >= first) & (position < stop)).flatten().tolist():
            best = logits[row].topk(3)
            unit = math.sqrt(2) * TYPICAL * float(logits[row].square().mean().sqrt())
            logits[row, best.indices[2]] = best.values[0] + units * unit
        return logits

    return change


def growing(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Error of every logit grows with the square of the position, to some twice the gate at 40."""
    for row, at in enumerate(position.tolist()):
        error = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(1000 + at))
        logits[row] += error * (2 * GATE * (at / 40) ** 2 * logits[row].norm() / error.norm())
    return logits


def tied(order: int) -> Spoil:
    """At position 11 the two largest logits are a tenth of a unit apart, in this order or the other."""

    def change(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        for row in torch.nonzero(position == 11).flatten().tolist():
            ids = sorted(logits[row].topk(2).indices.tolist())
            unit = math.sqrt(2) * TYPICAL * float(logits[row].square().mean().sqrt())
            logits[row, ids] = logits[row].max()
            logits[row, ids[order]] += 0.1 * unit
        return logits

    return change


@pytest.fixture(scope="module")
def references(exact: Any) -> Make:
    """The oracle's decoding of each prompt, once for all tests here."""
    oracle = Engine(exact, lambda logits, position: logits * FLAT)
    known: dict[tuple[Any, ...], Any] = {}

    def make(request: Request, tokens: int) -> Any:
        key = request.ids, tokens
        if key not in known:
            known[key] = decode_reference(oracle, request, tokens, floor=floor_of(exact.describe()))
        return known[key]

    return make


@pytest.fixture
def compare(references: Make, prompt: Make) -> Make:
    def run(sut: Any, *, length: int = 12, tokens: int = 5, seed: int = 0) -> Any:
        request = prompt(length, seed)
        return compare_decoding(sut=sut, oracle=references(request, tokens), request=request, tokens=tokens)

    return run


@pytest.fixture(scope="module")
def sut(exact: Any) -> Make:
    """Engines that are exact but for what is planted, so that every difference is known."""
    return lambda spoil: Engine(exact, lambda logits, position: spoil(logits * FLAT, position))


@pytest.mark.parametrize("seed", range(2))
def test_an_engine_with_clean_noise_is_silent(compare: Make, sut: Make, seed: int):
    found = compare(sut(noisy()), seed=seed)
    assert found.verdict in CLEAN, found.sentence
    assert found.noise["source"] == "floor"
    assert (found.starts, found.outside) == (None, ())
    assert not any(one.exceeds for one in found.excess)


@pytest.mark.parametrize(
    ("first", "stop", "phase"), [(13, 99, "decode"), (14, 15, "decode"), (4, 5, "prefill"), (0, 12, "prefill")]
)
def test_a_fault_in_one_phase_is_found_there(compare: Make, sut: Make, first: int, stop: int, phase: str):
    found = compare(sut(noisy(lifted(first, stop, 12.0))))
    assert found.verdict is DecodingVerdict.DIVERGED, found.sentence
    assert (found.first_out, found.starts) == (first, phase)
    out = [one.phase for one in found.partings if one.near_tie is False]
    assert set(out) | {found.phases[0 if at < 12 else 1].name for at in found.outside} == {phase}


def test_a_fault_that_grows_with_position_is_told_to_grow(compare: Make, sut: Make):
    found, clean = (compare(sut(noisy(fault)), length=36, tokens=4) for fault in (growing, None))
    assert found.verdict is DecodingVerdict.DIVERGED
    assert found.growth.grows
    assert found.growth.slope > clean.growth.slope + 1
    assert found.first_out is not None
    assert found.first_out > 12
    assert clean.verdict in CLEAN, clean.sentence


def test_a_near_tie_is_no_fault_by_a_floor(exact: Any, sut: Make, prompt: Make):
    request = prompt(12)
    found = compare_decoding(
        sut=sut(tied(1)), oracle=sut(tied(0)), request=request, tokens=3, floor=floor_of(exact.describe())
    )
    assert found.verdict is DecodingVerdict.NEAR_TIE, found.sentence
    assert found.free is not None
    assert (found.free.token, found.free.near_tie) == (0, True)


@pytest.mark.parametrize(
    ("units", "verdict"),
    [(3, DecodingVerdict.NEAR_TIE), (9, DecodingVerdict.UNRESOLVED), (90, DecodingVerdict.DIVERGED)],
)
def test_a_row_that_is_further_off_than_usual_leaves_a_token_unresolved(
    exact: Any, sut: Make, prompt: Make, units: float, verdict: DecodingVerdict
):
    """Eight times a usual clean row and within the gate: a correct engine's may be, and the token has changed."""

    def far(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        logits = tied(0)(logits, position)
        for row in torch.nonzero(position == 11).flatten().tolist():
            best = logits[row].topk(2)
            unit = math.sqrt(2) * TYPICAL * float(logits[row].square().mean().sqrt())
            error = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(3))
            error[best.indices] = 0.0
            logits[row] += error * (8 * TYPICAL * logits[row].norm() / error.norm())
            logits[row, best.indices[1]] += units * unit
        return logits

    found = compare_decoding(
        sut=sut(far), oracle=sut(tied(0)), request=prompt(12), tokens=2, floor=floor_of(exact.describe(), gate=2.5)
    )
    assert found.verdict is verdict, found.sentence
    assert found.free is not None
    assert (found.free.token, found.outside) == (0, ())
    assert ("further off as a whole" in found.sentence) == (verdict is DecodingVerdict.UNRESOLVED)


def test_a_floor_of_another_recipe_is_refused(recipe: Any, exact: Any, prompt: Make):
    with pytest.raises(UsageError, match="one of recipe fp8_block"):
        compare_decoding(sut=recipe, oracle=exact, request=prompt(4), tokens=2, floor=floor_of(exact.describe()))


def shipped(recipe: str) -> tuple[Any, Any, Floor]:
    model = f"recipe:{FIXTURES / 'models' / SHIPPED[recipe]}"
    floor = Floor.load(FIXTURES / "floors" / f"{recipe}.json")
    return open_runner(model), open_runner(model, recipe="fp32"), floor


@pytest.mark.long
@pytest.mark.parametrize("recipe", SHIPPED)
def test_by_the_shipped_floor_a_recipe_is_silent_and_a_wrong_token_is_found(recipe: str):
    near, exact, floor = shipped(recipe)
    ids = tuple(range(1000, 1024))
    request, tokens = Request("p", ids), 4
    reference = decode_reference(exact, request, tokens, floor=floor)
    healthy = compare_decoding(sut=near, oracle=reference, request=request, tokens=tokens)
    assert healthy.verdict in CLEAN, healthy.sentence
    noise, _ = reference.noise_around(reference.forced)
    assert noise is not None
    for at, phase in ((25, "decode"), (10, "prefill")):

        def spoil(logits: torch.Tensor, position: torch.Tensor, at: int = at) -> torch.Tensor:
            for row in torch.nonzero(position == at).flatten().tolist():
                best = logits[row].topk(2)
                # Ten times the limit of the floor for this one logit; nothing else of the row changes.
                wrong = 10 * noise.limit * float(noise.unit[at])
                logits[row, best.indices[1]] = best.values[0] + wrong
            return logits

        found = compare_decoding(sut=Engine(near, spoil), oracle=reference, request=request, tokens=tokens)
        assert (found.verdict, found.first_out, found.starts) == (DecodingVerdict.DIVERGED, at, phase), found.sentence


@pytest.mark.long
@pytest.mark.parametrize("recipe", SHIPPED)
def test_healthy_prompts_are_not_flagged_by_the_shipped_floor(recipe: str):
    """Documents that no floor has seen: of 40 other block-FP8 prompts of 16 to 160 ids, none was flagged and three
    had a parting left unresolved (117 partings in all)."""
    near, exact, floor = shipped(recipe)
    unresolved = 0
    for path in sorted((FIXTURES / "heldout").glob("*.json")):
        request = Request(path.stem, tuple(json.loads(path.read_text())["ids"][:96]))
        found = compare_decoding(sut=near, oracle=exact, request=request, tokens=4, floor=floor)
        assert found.verdict is not DecodingVerdict.DIVERGED, found.sentence
        unresolved += found.verdict is DecodingVerdict.UNRESOLVED
    # At that rate five of twelve or more have a chance of about 1e-3 (binomial).
    assert unresolved <= 4
