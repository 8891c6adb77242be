"""What do people say it is, and what would the rungs have to show for it? Popular diagnoses, each with its prediction.

Every judge reads what rungs measured already; none runs an engine. Sources: the wrong diagnoses of real incidents that
METHODOLOGY.md tells of, each of which survived for want of a cheap test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.climb.rung import RungResult, Status
from parity.ladder.ledger import Standing
from parity.records import Comparison

Results = Mapping[int, RungResult]
ROPE = ("attn.q_rope", "attn.k_rope")
COMPARED = {4: "chained", 5: "isolated"}
"""The summary that each of these rungs keeps once it is finished."""
ROUTES = ("moe.router_logits", "moe.topk_ids")


@dataclass(frozen=True)
class Judged:
    """What the rungs say of a claim. numbers: those that decide it; leaves_open: what they do not decide."""

    standing: Standing
    sentence: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    leaves_open: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folklore:
    """A popular diagnosis. words: what a person's claim of this kind says; rests_on: rungs whose numbers decide it."""

    name: str
    claim: str
    prediction: str
    words: re.Pattern[str]
    rests_on: tuple[int, ...]
    judge: Callable[[Results], Judged]


def _open(sentence: str) -> Judged:
    return Judged(Standing.INCONCLUSIVE, sentence, leaves_open=(sentence,))


def _lacking(results: Results, *numbers: int) -> Judged | None:
    """What is said where a rung that decides did not run."""
    missing = [number for number in numbers if number not in results or not results[number].ran]
    if missing:
        return _open(f"rung {', '.join(map(str, missing))} was not run")
    broken = [number for number in numbers if number in COMPARED and results[number].summary(COMPARED[number]) is None]
    return _open(f"rung {', '.join(map(str, broken))} could not be finished") if broken else None


def _records(results: Results, number: int) -> tuple[Comparison, ...]:
    """The comparisons of rung 4, error from upstream included, or of rung 5, each stage alone."""
    found = results[number].summary(COMPARED[number])
    assert found is not None
    return found.comparisons


def judge_noise(results: Results) -> Judged:
    """Noise stays within the floor that the recipe's own clean runs made, in every slice of every stage."""
    if lacking := _lacking(results, 4, 5):
        return lacking
    numbers = {
        "worst_over_floor_alone": results[5].numbers.get("worst_over_floor"),
        "worst_over_floor_chained": results[4].numbers.get("worst_over_floor"),
        "sites_over_alone": results[5].numbers.get("faulty"),
        "sites": results[5].numbers.get("sites"),
    }
    if numbers["worst_over_floor_alone"] is None:
        return _open("without a floor noise has no size")
    if results[5].status is Status.FOUND:
        zoomed = results.get(6)
        if zoomed is not None and zoomed.numbers.get("repeated") is False:
            return Judged(
                Standing.INCONCLUSIVE, "over the floor here, not again on the second prompt", numbers, ("a chance",)
            )
        return Judged(Standing.REFUTED, f"{numbers['sites_over_alone']} stages leave the recipe's noise", numbers)
    if results[4].status is Status.RULED_OUT and results[5].status is Status.RULED_OUT:
        return Judged(Standing.SUPPORTED, "every slice lies within the recipe's noise", numbers)
    return Judged(Standing.INCONCLUSIVE, "not every stage could be judged", numbers, ("stages without a verdict",))


def judge_near_ties(results: Results) -> Judged:
    """Rungs 4 and 5 route the oracle as the engine was: what exceeds its floor there is no other choice of experts."""
    if lacking := _lacking(results, 4, 5):
        return lacking
    routes = [one for one in _records(results, 4) if "complete" in one.whole]
    if not routes:
        return _open("the model has no router, or its choice was not captured")
    over = [one for one in _records(results, 5) if one.verdict.faulty and one.stage not in ROUTES]
    flipped = sum(round((1 - one.whole["complete"]) * one.rows) for one in routes)
    numbers = {
        "tokens_routed_otherwise": flipped,
        "tokens_routed": sum(one.rows for one in routes),
        "stages_over_with_the_same_experts": len(over),
    }
    if over:
        return Judged(Standing.REFUTED, "stages leave their floor with the engine's own experts on both sides", numbers)
    if not flipped:
        return Judged(Standing.REFUTED, "no token goes to other experts than the oracle's", numbers)
    if any(one.verdict.faulty for one in routes):
        return Judged(Standing.REFUTED, "tokens are routed otherwise by more than a near-tie", numbers)
    if 2 in results and results[2].status is Status.FOUND:
        return Judged(
            Standing.SUPPORTED, "decoding differs, no stage does, and every other choice is a near-tie", numbers
        )
    return Judged(
        Standing.INCONCLUSIVE, "near-ties there are, and nothing that they would have to explain", numbers,
        ("decoding was not seen to differ",),
    )  # fmt: skip


def judge_rope(results: Results) -> Judged:
    """Positions enter at the rotation of q and k alone: wrong there, or stated otherwise, or not to blame."""
    if lacking := _lacking(results, 5):
        return lacking
    records = [one for one in _records(results, 5) if one.stage in ROPE]
    if not records:
        return _open("no rotated q or k was captured")
    stated = [
        one for one in (results[1].findings if 1 in results else ())
        if str(one.evidence.get("name", "")).startswith(("rope", "rotary"))
    ]  # fmt: skip
    scores = [one.over_floor for one in records if one.over_floor is not None]
    numbers = {
        "worst_over_floor_of_rotated_q_and_k": max(scores, default=None),
        "sites": len(records),
        "hyper_parameters_of_rope_that_differ": len(stated),
    }
    beyond = ("positions beyond this prompt",)
    if any(one.verdict.faulty for one in records) or stated:
        return Judged(Standing.SUPPORTED, "the rotation of q or k is wrong on its own inputs", numbers, beyond)
    if all(one.verdict.healthy for one in records):
        said = "rotated q and k lie within their floor at every position of the prompt"
        return Judged(Standing.REFUTED, said, numbers, beyond)
    return _unjudged(records, numbers)


def judge_sampler(results: Results) -> Judged:
    """Greedy choices against the engine's own logits, with and without a ban: no temperature enters."""
    if lacking := _lacking(results, 2):
        return lacking
    said = results[2].numbers
    numbers = {name: said.get(name) for name in ("sampler", "sampler_under_ban", "rows_outside", "verdict")}
    if any(one.rung == "decode" for one in results[2].findings):
        return Judged(Standing.SUPPORTED, "its choices are not those of its own logits", numbers)
    if said.get("sampler") == "as_asked" and said.get("sampler_under_ban") in (None, "as_asked"):
        left = ("choices that are drawn: only greedy ones were looked at",)
        return Judged(Standing.REFUTED, "every greedy choice is the largest of its own logits", numbers, left)
    return Judged(Standing.INCONCLUSIVE, "the sampler could not be examined", numbers, ("the sampler",))


def judge_model(results: Results) -> Judged:
    """What the model itself does, the oracle does too, on the same ids."""
    if lacking := _lacking(results, 2):
        return lacking
    found = results[2]
    numbers = {name: found.numbers.get(name) for name in ("tokens_as_the_oracle", "tokens", "degenerates_at")}
    numbers["oracle_degenerates_at"] = found.control.get("degenerates_at")
    if found.status is Status.FOUND and found.numbers.get("verdict") == "diverged":
        return Judged(Standing.REFUTED, "on the same ids the oracle decodes otherwise, beyond the noise", numbers)
    if found.status is Status.RULED_OUT:
        return Judged(Standing.SUPPORTED, "on the same ids the oracle decodes the same", numbers)
    return Judged(Standing.INCONCLUSIVE, found.sentence, numbers, (found.sentence,))


def judge_by(*names: str) -> Callable[[Results], Judged]:
    """A claim that invariances of rung 3 decide: broken supports it, held refutes it."""

    def judge(results: Results) -> Judged:
        if lacking := _lacking(results, 3):
            return lacking
        outcomes = {name: results[3].numbers.get("outcomes", {}).get(name, "not run") for name in names}
        rungs = {one.rung for one in results[3].findings}
        blamed = [name for name in names if f"invariances ({name})" in rungs]
        if blamed:
            return Judged(Standing.SUPPORTED, f"{', '.join(blamed)}: what is computed changes", outcomes)
        if all(outcome == "held" for outcome in outcomes.values()):
            return Judged(Standing.REFUTED, f"{', '.join(names)}: what is computed does not change", outcomes)
        said = ", ".join(f"{name} {outcome}" for name, outcome in outcomes.items())
        return Judged(Standing.INCONCLUSIVE, said, outcomes, (said,))

    return judge


def _unjudged(records: list[Comparison], numbers: Mapping[str, Any]) -> Judged:
    why = next(one.verdict.value for one in records if not one.verdict.healthy)
    return Judged(Standing.INCONCLUSIVE, f"not everything could be judged: {why}", numbers, (why,))


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


FOLKLORE: tuple[Folklore, ...] = (
    Folklore(
        "noise",
        "It is noise of the precision recipe, quantization above all.",
        "Every slice of every stage lies within the recipe's noise floor, alone and chained.",
        _words(r"\bnoise", r"quanti[sz]ation", r"limitation of", r"\brounding", r"\bprecision"),
        (4, 5, 6),
        judge_noise,
    ),
    Folklore(
        "near_ties",
        "The router's near-ties send tokens to other experts, and that is all.",
        "With the engine's own experts on both sides no stage exceeds its floor; other choices are near-ties.",
        _words(r"near.?tie", r"\brout(er|ing)\b", r"other experts"),
        (4, 5),
        judge_near_ties,
    ),
    Folklore(
        "rope",
        "The rotary positions are wrong: base, scaling or length.",
        "Rotated q or k exceed their floor on the engine's own inputs, or a hyper-parameter of rope differs.",
        _words(r"\brope\b", r"\brotary", r"\byarn\b", r"long context", r"\bpositions?\b"),
        (1, 5),
        judge_rope,
    ),
    Folklore(
        "sampler",
        "The sampler or its settings are to blame: temperature, penalties, masks.",
        "A greedy choice is not the largest of the engine's own logits, or a banned token comes out.",
        _words(r"\bsampl", r"temperature", r"\bpenalt", r"\btop.?p\b", r"\bgreedy\b", r"\bmask"),
        (2,),
        judge_sampler,
    ),
    Folklore(
        "model",
        "The model itself writes so; the engine is right.",
        "On the same ids the oracle's logits and continuation are the engine's, within the noise.",
        _words(r"\bmodel (itself|is|was|writes)", r"\bweights are", r"\btrained\b", r"bad checkpoint"),
        (2,),
        judge_model,
    ),
    Folklore(
        "chunks",
        "Chunked prefill is to blame.",
        "The prompt fed in chunks gives other numbers than the prompt fed whole.",
        _words(r"\bchunk"),
        (3,),
        judge_by("chunks"),
    ),
    Folklore(
        "memory",
        "Old memory is read, or requests disturb each other: it depends on what ran before and beside.",
        "Another history, poisoned memory or a neighbour in the batch changes what is computed.",
        _words(r"\bmemory", r"\bstale", r"uninitiali[sz]ed", r"\brace\b", r"nondetermin", r"\bbatch"),
        (3,),
        judge_by("history", "poison", "batch"),
    ),
)


def folklore_of(claim: str) -> Folklore | None:
    """The popular diagnosis that a person's claim is one of, by its words; None where none fits, or several do."""
    fitting = [one for one in FOLKLORE if one.words.search(claim)]
    return fitting[0] if len(fitting) == 1 else None
