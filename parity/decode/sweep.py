"""What is the shortest beginning of a prompt that shows the symptom? A grid of lengths, then bisection inside it.

Symptoms need not be monotone in length: a tile edge comes and goes. So nothing is inferred across the grid: the first
length of a geometric grid that shows the symptom and the one before it are the bracket, only that is bisected, and
both ends are run once more at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parity.decode.comparison import DecodingComparison, DecodingVerdict
from parity.errors import UsageError
from parity.text import from_ids
from parity.text.loops import find_loop

SYMPTOMS = ("divergence", "loop", "kl")


@dataclass(frozen=True)
class Tried:
    """One length: whether the SUT shows the symptom and the oracle on the same ids does not; why, in words."""

    length: int
    shows: bool
    why: str


@dataclass(frozen=True)
class Sweep:
    """clean, shows: lengths on both sides of the step, the second the shortest seen to show it; None where there is no
    such length. confirmed: both came out the same when run again. monotone: no longer length tried was clean."""

    symptom: str
    clean: int | None
    shows: int | None
    confirmed: bool
    monotone: bool
    tried: tuple[Tried, ...]
    sentence: str


Try = Callable[[int], Tried]


def shortest_prompt(try_length: Try, longest: int, *, symptom: str, shortest: int = 2) -> Sweep:
    """Find the bracket. try_length: runs both engines on the first n ids. Raises UsageError for longest < shortest."""
    if longest < shortest:
        raise UsageError(
            place="sweep of prompt lengths",
            expected=f"a prompt of at least {shortest} ids",
            found=f"{longest}",
            next_step="Give a longer prompt.",
        )
    known: dict[int, Tried] = {}

    def shows(length: int) -> bool:
        if length not in known:
            known[length] = try_length(length)
        return known[length].shows

    grid = [shortest]
    while grid[-1] < longest:
        grid.append(min(grid[-1] * 2, longest))
    first = next((n for n, length in enumerate(grid) if shows(length)), None)
    if first is None:
        tried = tuple(known[n] for n in sorted(known))
        text = f"No {symptom} at any of the lengths {', '.join(map(str, grid))}: nothing to shorten."
        return Sweep(symptom, longest, None, True, True, tried, text)
    bad, good = grid[first], grid[first - 1] if first else None
    while good is not None and bad - good > 1:
        middle = (good + bad) // 2
        if shows(middle):
            bad = middle
        else:
            good = middle
    shows(longest)
    again = [try_length(length).shows == known[length].shows for length in (good, bad) if length is not None]
    tried = tuple(known[n] for n in sorted(known))
    monotone = all(one.shows for one in tried if one.length > bad)
    text = f"The shortest prompt seen to show {symptom} has {bad} ids ({known[bad].why})"
    text += f"; {good} ids do not" if good is not None else "; nothing shorter was tried"
    text += ", both confirmed by a second run" if all(again) else ", but a second run came out otherwise"
    if not monotone:
        clean = ", ".join(str(one.length) for one in tried if one.length > bad and not one.shows)
        text += f"; the symptom is not monotone: longer prompts of {clean} ids are clean"
    return Sweep(symptom, good, bad, all(again), monotone, tried, text + ".")


def judge_symptom(found: DecodingComparison, symptom: str, *, kl: float | None = None) -> tuple[bool, str]:
    """Whether a comparison shows the symptom in the SUT and not in the oracle, and why.

    kl: nats at any position, for symptom `kl`. Raises UsageError for another symptom, or `kl` without a number.
    """
    if symptom not in SYMPTOMS or (symptom == "kl" and kl is None):
        raise UsageError(
            place="symptom",
            expected="one of " + ", ".join(SYMPTOMS) + ", kl with a number of nats",
            found=repr(symptom),
            next_step="Correct it.",
        )
    if symptom == "divergence":
        return found.verdict is DecodingVerdict.DIVERGED, found.verdict.value
    if symptom == "kl":
        worst = max(phase.kl_worst for phase in found.phases)
        return not worst <= (kl or 0.0), f"largest KL {worst:.3g} nats"
    ours, theirs = (find_loop(from_ids(ids)) for ids in (found.sut_ids, found.oracle_ids))
    if ours is None:
        return False, "no loop"
    if theirs is not None:
        return False, "the oracle loops too"
    return True, f"loop of period {ours.period} from new token {ours.start}"
