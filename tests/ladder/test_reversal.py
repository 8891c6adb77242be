"""Is a fault that no chained floor sees proved where it is, and nowhere else, on an engine that sums otherwise?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.floor import Floor
from parity.ladder import Opening, Proof, prove
from parity.ladder.departure import log_chance
from parity.ladder.prove import Site
from parity.ladder.replay_graft import replay_grafts
from parity.ladder.reversal import Dose, Reversal, measure_reversal
from parity.ladder.silent import shares_left
from parity.ladder.sweep import oracle_trace, sweep_against
from parity.runner import CapturePlan, Request
from parity.stages import QWEN3_MOE
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.recipes.runner import RecipeRunner

Edit = Callable[[torch.Tensor, Any], torch.Tensor]
Attempt = Callable[..., list[Proof]]
ORDER = 3
"""Of the engine's sums; the emulation that replays has the plainest."""


class OtherOrder(RecipeRunner):
    """A healthy engine whose sums have another order than the emulation's, but for what is planted at sites.

    unread: sites whose tensor is shown, and may be replaced, while the next stages read another. inner: stages that it
    says no graft can replace.
    """

    def __init__(
        self, model: Path, edits: dict[Site, Edit], unread: Collection[Site], inner: Collection[str] = ()
    ) -> None:
        super().__init__(read_checkpoint(model), order=ORDER)
        self.edits, self.unread, self.inner = edits, unread, frozenset(inner)

    def describe(self) -> Any:
        return replace(super().describe(), inner=self.inner)

    def compute(self, stage: str, layer: int | None, inputs: Any, *rest: Any, **more: Any) -> torch.Tensor:
        out = super().compute(stage, layer, inputs, *rest, **more)
        edit = self.edits.get((layer, stage))
        return out if edit is None else edit(out, inputs).to(out.dtype)

    def _shown(self, out: torch.Tensor, layer: int | None, stage: Any, *rest: Any) -> torch.Tensor:
        back = super()._shown(out, layer, stage, *rest)
        return out if (layer, stage.name) in self.unread else back


@pytest.fixture(scope="module")
def attempt(fp8_model: Path, floor: Floor, oracle: Any, request_160: Request) -> Attempt:
    """attempt(edits, claims, unread=(), inner=()): the proof of each claim about one engine."""

    def run(
        edits: dict[Site, Edit], claims: list[list[Site]], unread: Collection[Site] = (), inner: Collection[str] = ()
    ) -> list[Proof]:
        engine = OtherOrder(fp8_model, edits, unread, inner)
        trace = engine.forward([request_160], capture=CapturePlan())
        truth = oracle_trace(oracle, trace)
        given = {
            "oracle": oracle, "emulation": Opening(f"recipe:{fp8_model}"), "request": request_160, "trace": trace,
            "chained": sweep_against(oracle, truth, trace, floor=floor), "floor": floor, "truth": truth,
        }  # fmt: skip
        return [prove(engine, sites=sites, **given) for sites in claims]

    return run


def expert(number: int, factor: float) -> Edit:
    def edit(out: torch.Tensor, inputs: Any) -> torch.Tensor:
        here = inputs["moe.topk_ids"] == number
        return torch.where(here[..., None], out.float() * factor, out.float())

    return edit


def scaled(factor: float, columns: slice = slice(None)) -> Edit:
    def edit(out: torch.Tensor, inputs: Any) -> torch.Tensor:
        wrong = out.float().clone()
        wrong[..., columns] *= factor
        return wrong

    return edit


FAULTS: dict[Site, Edit] = {
    (1, "moe.down"): expert(1, 1.01),
    (0, "moe.down"): expert(2, 0.99),
    (1, "attn.v"): scaled(1.01, slice(0, 16)),
    (0, "attn.out"): scaled(0.993),
    (1, "moe.experts"): scaled(1.008),
}
AROUND: list[Site] = [(0, "attn.out"), (0, "moe.down"), (1, "attn.v"), (1, "moe.down"), (1, "moe.experts"),
                      (1, "resid.out")]  # fmt: skip
"""Stages before and after each of the faults."""


@pytest.mark.parametrize(
    "site",
    [pytest.param(site, marks=pytest.mark.long) if site[0] == 0 else site for site in FAULTS],
)
def test_a_fault_below_every_chained_floor_is_proved_where_it_is_and_nowhere_else(attempt: Attempt, site: Site):
    proofs = dict(zip(AROUND, attempt({site: FAULTS[site]}, [[one] for one in AROUND]), strict=True))
    assert not any(proof.cleared for proof in proofs.values()), "no chained floor sees it"
    assert [one for one, proof in proofs.items() if proof.proved] == [site], proofs[site].silent
    found = proofs[site].silent
    assert found is not None
    assert found.reversal.seen[0].share == pytest.approx(1.0, abs=0.15)
    assert "of what the site put in" in proofs[site].sentence()


def test_no_stage_of_a_healthy_engine_that_sums_otherwise_is_proved(attempt: Attempt):
    for proof in attempt({}, [[one] for one in AROUND]):
        assert not proof.proved
        assert proof.silent is not None
        assert not proof.stays


def test_a_tensor_that_nothing_reads_is_not_proved(attempt: Attempt):
    site: Site = (1, "moe.down")
    (proof,) = attempt({site: FAULTS[site]}, [[site]], unread={site})
    assert proof.stays
    assert proof.sham_changed == 0, "the sham alone does not tell"
    assert not proof.proved
    assert proof.silent is not None
    assert not proof.silent.reversal.seen


def through_e4m3(model: Path, layer: int) -> Edit:
    weight = read_checkpoint(model).weight(f"model.layers.{layer}.mlp.gate.weight").to(torch.float8_e4m3fn).float()
    return lambda out, inputs: inputs["mlp.norm"].float() @ weight.T


@pytest.mark.parametrize(("layer", "inner"), [(0, ("moe.router_logits",)), (1, ("moe.router_logits",)), (1, ())])
def test_wrong_logits_of_the_router_are_proved_inside_its_kernel_too(
    attempt: Attempt, fp8_model: Path, layer: int, inner: tuple[str, ...]
):
    """Few tokens go to other experts and carry nearly all of what arrives further down."""
    site: Site = (layer, "moe.router_logits")
    (proof,) = attempt({site: through_e4m3(fp8_model, layer)}, [[site]], inner=inner)
    assert not proof.cleared, "no chained floor sees it"
    assert proof.silent is not None
    assert set(proof.silent.healed) == {f"L0{layer}.moe.topk_weights" if inner else f"L0{layer}.moe.router_logits"}
    assert proof.proved, proof.silent


def test_what_is_left_of_a_stage_inside_a_kernel_is_told_where_its_grafts_go(
    fp8_model: Path, oracle: Any, request_160: Request
):
    site: Site = (1, "moe.router_logits")
    engine = OtherOrder(fp8_model, {site: through_e4m3(fp8_model, 1)}, (), inner={site[1]})
    grafts = replay_grafts(
        [site], graph=QWEN3_MOE, layers=2, inner={site[1]}, oracle=Opening(f"recipe:{fp8_model}"), recipe="fp8_block"
    )
    faulty, healed = (engine.forward([request_160], capture=CapturePlan(), graft=graft) for graft in ([], grafts))
    left = shares_left(faulty, healed, oracle=oracle, grafts=grafts)
    assert left == {"L01.moe.topk_weights": pytest.approx(0.0, abs=1e-3)}
    # Nothing was mended: all of it is left, twice the half that is allowed.
    assert shares_left(faulty, faulty, oracle=oracle, grafts=grafts) == {"L01.moe.topk_weights": 2.0}
    (worse,) = shares_left(healed, faulty, oracle=oracle, grafts=grafts).values()
    assert worse is not None
    assert worse > 1e3
    outside = [graft for graft in grafts if len(graft.span) < 2]
    assert shares_left(faulty, healed, oracle=oracle, grafts=outside) == {}


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kept", [3, 4])
def test_a_choice_by_coarse_keys_is_proved_by_the_few_tokens_that_it_moves(attempt: Attempt, layer: int, kept: int):
    site: Site = (layer, "moe.topk_ids")
    (proof,) = attempt({site: by_coarse_keys(kept)}, [[site]])
    assert proof.proved, proof.silent


def by_coarse_keys(kept: int) -> Edit:
    """Top-k of keys with `kept` bits of mantissa, ties to the lower expert."""

    def edit(out: torch.Tensor, inputs: Any) -> torch.Tensor:
        keys = inputs["moe.router_logits"].float().contiguous().view(torch.int32) & -(1 << (23 - kept))
        return keys.view(torch.float32).sort(dim=-1, descending=True, stable=True).indices[:, : out.shape[-1]]

    return edit


def test_a_wrong_choice_of_experts_is_measured_by_what_the_oracle_makes_of_it(
    fp8_model: Path, oracle: Any, request_160: Request
):
    def third(out: torch.Tensor, inputs: Any) -> torch.Tensor:
        """The last chosen expert is the one after the right one."""
        ranked = inputs["moe.router_logits"].float().topk(out.shape[-1] + 1).indices
        return torch.cat([out[:, :-1], ranked[:, -1:].to(out.dtype)], 1)

    site: Site = (1, "moe.topk_ids")
    engine = OtherOrder(fp8_model, {site: third}, ())
    grafts = replay_grafts(
        [site], graph=QWEN3_MOE, layers=2, inner=(), oracle=Opening(f"recipe:{fp8_model}"), recipe="fp8_block"
    )
    plan = CapturePlan()
    runs = [engine.forward([request_160], capture=plan, graft=graft) for graft in ([], grafts, [])]
    truths = [oracle_trace(oracle, run) for run in runs]

    def measured(healed: int) -> Reversal:
        pair = (truths[0], truths[healed])
        return measure_reversal(runs[0], runs[healed], oracle=oracle, truths=pair, grafts=grafts, graph=QWEN3_MOE)

    found = measured(1)
    assert found.holds, found.line()
    assert [one.place for one in found.seen] == ["L01.resid.out", "logits"]
    assert all(one.share == pytest.approx(1.0, abs=0.1) for one in found.seen)
    assert not measured(2).holds  # a graft that mended nothing


def dose(**changed: Any) -> Dose:
    return replace(Dose("logits", share=1.0, taken=9.0, rows=40.0, worse=-1.0, signal=1e-3, noise=1e-2), **changed)


@pytest.mark.parametrize(
    ("doses", "holds"),
    [
        ((dose(),), True),
        ((dose(taken=2.0),), False),
        ((dose(taken=2.0, apart=0.49, elements=40.0),), True),  # drowned as rows, and just what was put in
        ((dose(taken=2.0, apart=0.51, elements=40.0),), False),
        ((dose(taken=2.0, apart=0.01, elements=9.0),), False),  # a direction in nine dimensions may be chance
        ((dose(rows=1.0, taken=0.0, apart=0.2, elements=300.0),), True),  # one token
        ((dose(apart=0.1, elements=300.0), dose(share=0.0, taken=-9.0)), False),
        ((dose(rows=1.5, taken=1e6),), False),  # one row has no spread
        ((dose(rows=3.0),), False),  # two degrees of freedom ask for 70 standard errors
        ((dose(), dose(share=0.0, taken=-9.0)), False),
        ((dose(), dose(worse=6.0)), False),
        ((dose(), dose(share=2.0, taken=1.0)), True),  # drowned in noise further down
        ((), False),
    ],
)
def test_half_of_the_dose_decides_where_it_is_known(doses: tuple[Dose, ...], holds: bool):
    assert Reversal(doses).holds is holds


def test_why_nothing_was_measured_is_said():
    assert "no such stage" in Reversal(obstacle="no such stage").line()
    assert "drowns" in Reversal((dose(taken=0.0),)).line()
    assert "worse by 6" in Reversal((dose(worse=6.0),)).line()


@pytest.mark.parametrize("tosses", [1, 2, 19, 25, 200])
def test_the_chance_of_a_direction_is_the_binomial_tail(tosses: int):
    for heads in range(tosses // 2 + 1, tosses + 1):
        exact = sum(math.comb(tosses, k) for k in range(heads, tosses + 1)) / 2**tosses
        assert log_chance(heads, tosses) == pytest.approx(math.log(exact), rel=1e-9, abs=1e-12)


def test_a_million_rows_have_a_chance_too():
    assert log_chance(750_000, 1_000_000) == pytest.approx(-130_812, rel=1e-4)  # n (ln 2 - H(3/4)), H in nats
