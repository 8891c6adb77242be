"""Do two engines sample alike? Paired seeds on one prompt, each sampler against its logits, and numbers a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from parity.decode.draws import DrawCheck, check_draws
from parity.decode.pairs import LEAST, PairedDifference, compare_pairs
from parity.decode.side import Forced, force_each, require_decoding
from parity.errors import RunnerError, UsageError
from parity.runner import Request, Runner
from parity.sampling import Sampling, require_ids
from parity.text import from_ids
from parity.text.loops import find_loop
from parity.text.statistics import distinct

CONFIDENCE = 0.99
"""Of all measures together: one comparison in a hundred of equal engines may be called different."""

MEASURES = ("surprisal", "distinct_1", "loop")


@dataclass(frozen=True)
class SampledComparison:
    """verdict: `differs`, `no_difference_seen`, `unresolved` (the oracle's own sampler is off) or `refused`.

    sampler, oracle_sampler: each against its own logits. pairs: measure to the difference of SUT and oracle over the
    seeds: `surprisal` (nats a token under the oracle at temperature 1), `distinct_1`, `loop` (0 or 1). seeds: used.
    oracle_ids, sut_ids: continuations, seed by seed.
    """

    verdict: str
    sentence: str
    request: str
    seeds: tuple[int, ...]
    tokens: int
    sampler: DrawCheck | None
    oracle_sampler: DrawCheck | None
    pairs: dict[str, PairedDifference]
    oracle_ids: tuple[tuple[int, ...], ...] = ()
    sut_ids: tuple[tuple[int, ...], ...] = ()


def compare_sampled(
    *,
    sut: Runner,
    oracle: Runner,
    request: Request,
    tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    tell: Callable[[str], None] = lambda what: None,
) -> SampledComparison:
    """Draw a continuation a seed from both, and compare. Nothing is run and nothing concluded from fewer than LEAST.

    Raises UsageError for settings that draw nothing, seeds that repeat, and prompts as `compare_decoding`; RunnerError
    for a runner that cannot `sample`.
    """
    seeds = tuple(seeds)
    if sampling.greedy or len(set(seeds)) != len(seeds):
        raise UsageError(
            place="sampled comparison",
            expected="a temperature above 0 and seeds that differ",
            found=f"temperature {sampling.temperature}, {len(seeds)} seeds, {len(set(seeds))} different",
            next_step="Compare greedy decoding with `compare_decoding`.",
        )
    if len(seeds) < LEAST:
        return refused(request, seeds, tokens)
    infos = oracle.describe(), sut.describe()
    for info in infos:
        require_decoding(info, request, tokens)
        if "sample" not in info.can:
            raise RunnerError(
                place=f"runner {info.name}",
                expected="one that can sample",
                found="one that decodes greedily only",
                next_step="Score its sampled texts seed by seed, and compare them with `parity decode --pairs`.",
            )
    require_ids(sampling, len_of(infos[0]))
    made = {"oracle": _draw(oracle, request, tokens, sampling, seeds, "oracle", tell),
            "SUT": _draw(sut, request, tokens, sampling, seeds, "SUT", tell)}  # fmt: skip
    tell("the SUT's first seed once more")
    again = tuple(sut.generate(request, max_new_tokens=tokens, sampling=sampling.with_seed(seeds[0])).ids)
    tell("the SUT, forced on its own texts")
    own = force_each(sut, request, made["SUT"][0])
    tell("the oracle, forced on both engines' texts")
    both = force_each(oracle, request, [*made["oracle"][0], *made["SUT"][0]])
    theirs, ours = both[: len(seeds)], both[len(seeds) :]
    checks = [
        check_draws(theirs, sampling, stated=made["oracle"][1]),
        check_draws(own, sampling, stated=made["SUT"][1], again=again),
    ]
    if checks[1].violations:
        # Only now is it worth a run more: how far the SUT's own logits move between two ways of feeding.
        tell("the SUT's texts fed at once")
        other = force_each(sut, request, made["SUT"][0], stepwise=False)
        moves = [(a.choices.double() - b.choices.double()).abs().amax(1) for a, b in zip(own, other, strict=True)]
        checks[1] = check_draws(own, sampling, stated=made["SUT"][1], again=again, moves=moves)
    level = 1 - (1 - CONFIDENCE) / len(MEASURES)
    pairs = {
        name: compare_pairs(
            [measure(one, name) for one in theirs], [measure(one, name) for one in ours], confidence=level
        )
        for name in MEASURES
    }
    return _conclude(request, seeds, tokens, checks, pairs, made)


def refused(request: Request, seeds: Sequence[int], tokens: int) -> SampledComparison:
    """The record of a comparison over too few seeds."""
    text = f"Refused: {len(seeds)} seeds conclude nothing about sampled text; {LEAST} are needed."
    return SampledComparison("refused", text, request.name, tuple(seeds), tokens, None, None, {})


def measure(one: Forced, name: str) -> float:
    """One number of a continuation forced on the oracle."""
    ids = one.ids[one.prompt :]
    if name == "surprisal":
        rows = one.choices.double().log_softmax(1)
        return -float(rows.gather(1, torch.tensor(ids)[:, None]).mean())
    text = from_ids(ids)
    return distinct(text.codes, 1) if name == "distinct_1" else float(find_loop(text) is not None)


def len_of(info: Any) -> int:
    """Ids in a runner's vocabulary; without end where it does not say."""
    return int(info.hyper.get("vocab") or info.hyper.get("vocab_size") or 2**62)


def _draw(
    runner: Any, request: Request, tokens: int, sampling: Sampling, seeds: Sequence[int], who: str, tell: Any
) -> tuple[list[tuple[int, ...]], dict[str, Any]]:
    """A continuation a seed, and the settings stated to be in force."""
    made, stated = [], {}
    for number, seed in enumerate(seeds, 1):
        tell(f"{who}, seed {number} of {len(seeds)}")
        one = runner.generate(request, max_new_tokens=tokens, sampling=sampling.with_seed(seed))
        if not one.ids:
            raise RunnerError(
                place=f"continuation of request {request.name}, seed {seed}",
                expected="at least one token",
                found="none",
                next_step="An engine that stops at once is a finding of its own: look at its first token's logits.",
            )
        made.append(tuple(one.ids))
        stated = dict(one.sampler)
    return made, stated


def _conclude(
    request: Request, seeds: tuple[int, ...], tokens: int, checks: Sequence[DrawCheck],
    pairs: dict[str, PairedDifference], made: dict[str, Any],
) -> SampledComparison:  # fmt: skip
    differing = [name for name, one in pairs.items() if one.verdict == "differs"]
    if checks[0].outcome == "differs":
        verdict, head = "unresolved", "Unresolved: the oracle's own sampler is not as asked"
    elif checks[1].outcome == "differs" or differing:
        verdict, head = "differs", "Differs"
    elif checks[1].outcome == "unresolved":
        verdict, head = "unresolved", "Unresolved"
    else:
        verdict, head = "no_difference_seen", f"No difference seen in {tokens} tokens of {len(seeds)} paired seeds"
    said = [head]
    for who, one in (("oracle", checks[0]), ("SUT", checks[1])):
        if one.outcome != "as_asked":
            said.append(f"the {who}'s sampler: {one.sentence.rstrip('.')}")
    shown = differing or ["surprisal"]
    said += [f"{name}: {pairs[name].sentence.rstrip('.')}" for name in shown]
    return SampledComparison(
        verdict, "; ".join(said) + ".", request.name, seeds, tokens, checks[1], checks[0], pairs,
        tuple(made["oracle"][0]), tuple(made["SUT"][0]),
    )  # fmt: skip
