"""Does a text fall into a loop, with which period, and from which token on?

A loop of period p is a stretch in which tokens equal the tokens p before them. Stretches of matching blocks are the
candidates (`matches`), their ends are then found token by token. Three kinds:

exact     every token matches.
template  every token matches once numbers are taken as equal: a line that repeats with other numbers in it.
fuzzy     FUZZY_RATE of the tokens match, at a lag that may wander by two tokens, or a 32nd; words vary, not numbers
          alone. Where nothing else is found, rounds that the text ends in are followed whatever they wander (`drift`).

What is healthy and repeats itself is left out by what the rounds are made of (`rounds`) and by what their numbers say
(`counting`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parity.text.counting import counts_on
from parity.text.drift import follow_back
from parity.text.fields import read_fields
from parity.text.laws import follows_a_law
from parity.text.matches import (
    BLOCK,
    FUZZY_RATE,
    MAX_PERIOD,
    ROUND_RATE,
    SMOOTHED,
    best_nearby,
    count_matches,
    extend,
    extend_back,
    find_stretches,
    reach,
)
from parity.text.rounds import (
    LASTING_REPEATS,
    LASTING_TOKENS,
    LOOKED_AT,
    WORDS_CHANGED,
    Loop,
    counts_as_loop,
    long_enough,
    varies_anywhere,
)
from parity.text.tokens import TokenText

__all__ = ["MAX_PERIOD", "Loop", "Repetition", "find_loop", "find_repetition"]


LEAST_STRETCH = SMOOTHED * BLOCK
"""Tokens of a stretch that is taken for the beginning of a fuzzy loop behind it."""


FOLLOWED = 2 * LOOKED_AT
"""Tokens of the end of a text that tell whether it wanders there; only a loop is followed to its beginning."""

_LEAST: dict[str, Callable[[int], float]] = {
    "exact": lambda period: max(LASTING_TOKENS - period, (LASTING_REPEATS - 1) * period) - 2 * BLOCK,
    "template": lambda period: math.inf,
    "fuzzy": lambda period: max(LEAST_STRETCH - period, period),
}
"""Matching tokens of a stretch that counts although the text goes on behind it; the first round matches nothing, and
an exact one grows by a part of a block at both ends."""


class Repetition(NamedTuple):
    """loop: the one that starts first, None for a text without one. counting: the first stretch that repeats a template
    whose numbers go on by a rule, which is no loop."""

    loop: Loop | None
    counting: Loop | None


def find_loop(text: TokenText) -> Loop | None:
    """The loop that starts first; None for a text without one. An empty text has none. Of bare ids, exact loops only:
    which of them are numbers or words is not known."""
    return find_repetition(text).loop


def find_repetition(text: TokenText) -> Repetition:
    """The loop that starts first, and the counting that was not taken for one."""
    counts = count_matches(text.codes)
    near = best_nearby(counts)
    exacts = _candidates(text.codes, counts, text, "exact")
    exact = next(iter(_in_order([loop for loop in exacts if counts_as_loop(loop, text)])), None)
    if text.strings is None:
        return Repetition(exact, None)
    masked = text.without_numbers
    words = count_matches(masked)
    counted: list[Loop] = []
    templates = _candidates(masked, words, text, "template")
    other = _first([loop for loop in templates if counts_as_loop(loop, text)], text, near, exact, counted, templates)
    if other is None:
        fuzzy = _candidates(text.codes, near, text, "fuzzy", words)
        other = _first([loop for loop in fuzzy if counts_as_loop(loop, text)], text, near, exact, counted, fuzzy)
        other = other or _first(_varying(fuzzy, text), text, near, exact, counted, fuzzy)
        other = other and _from_its_beginning(other, fuzzy)
        if other is None and exact is None:
            other = _first(_wandering(text), text, near, exact, counted, fuzzy)
    counting = min(counted, key=lambda one: one.start, default=None)
    # Rounds that vary may come to repeat exactly: the loop began with the first of them.
    varied = exact is None or (other is not None and other.start + 2 * other.period + SMOOTHED * BLOCK < exact.start)
    return Repetition(other if varied else exact, counting)


def _in_order(loops: list[Loop]) -> list[Loop]:
    """The smallest period of those that start together is the loop; the others are its multiples."""
    return sorted(loops, key=lambda loop: (loop.start // (2 * BLOCK), loop.period, loop.start))


def _first(
    loops: list[Loop],
    text: TokenText,
    near: NDArray[np.uint8],
    exact: Loop | None,
    counted: list[Loop],
    stretches: list[Loop],
) -> Loop | None:
    """The first loop that neither counts, nor fills in a form, nor follows a law; those that count are added to
    `counted`. stretches: all that repeat, with which a loop that begins before its own is read from its beginning. What
    a text counts before it gets stuck at a number is counting: it is read up to the exact loop that follows."""
    forms: list[Loop] = []
    for loop in _in_order(loops):
        if any(_mostly_in(loop, other) for other in (*counted, *forms)):
            continue
        stop = loop.end
        if exact is not None and exact.start > loop.start + 2 * loop.period:
            stop = min(stop, exact.start)
        if counts_on("".join((text.strings or ())[loop.start : stop])):
            counted.append(loop)
        elif _fills_a_form(loop, text, near) or follows_a_law(_whole_lines(_from_its_beginning(loop, stretches), text)):
            forms.append(loop)
        else:
            return loop
    return None


def _fills_a_form(loop: Loop, text: TokenText, near: NDArray[np.uint8]) -> bool:
    """Whether its rounds say something in their fields. A round that is several lines of one form is read by lines."""
    if loop.kind == "exact":
        return False
    inside = near[: loop.period, loop.start // BLOCK + 1 : loop.end // BLOCK]
    lines = np.flatnonzero(inside.mean(1) >= FUZZY_RATE * BLOCK) if inside.shape[1] else np.zeros(0, int)
    # `near` holds the best match around a lag: a period is seen at the lags beside it too, and is none of these.
    close = lines[lines <= lines[0] + 2 * reach(int(lines[0]) + 1)] if len(lines) else lines
    period = loop.period if loop.period - 1 in close or not len(close) else int(close[len(close) // 2]) + 1
    found = read_fields(text, slice(loop.start, min(loop.end, loop.start + LOOKED_AT)), period)
    return found is not None and found.say_something


def _whole_lines(loop: Loop, text: TokenText) -> str:
    """The text of a loop, from the beginning of the line in which it starts if that is no more than a round before."""
    strings, start = text.strings or (), loop.start
    while start > max(loop.start - loop.period, 0) and "\n" not in strings[start - 1]:
        start -= 1
    return "".join(strings[start : loop.end])


def _mostly_in(loop: Loop, other: Loop) -> bool:
    """Whether half of it lies in the other, which then is the same one with another period."""
    return 2 * (min(loop.end, other.end) - max(loop.start, other.start)) > loop.end - loop.start


def _from_its_beginning(loop: Loop, loops: list[Loop]) -> Loop:
    """The loop with the stretches before it, each of two rounds or more and apart by no more than a round of this one:
    a few words that are others end a stretch, and not the loop."""
    before = [
        one for one in loops if one.start < loop.start and one.repeats >= 2 and one.end - one.start >= LEAST_STRETCH
    ]
    start = loop.start
    for one in sorted(before, key=lambda one: -one.end):
        if one.end >= start - loop.period - SMOOTHED * BLOCK:
            start = min(start, one.start)
    return replace(loop, start=start)


def _varying(loops: list[Loop], text: TokenText) -> list[Loop]:
    """Those whose words vary anywhere; of each stretch the smallest of periods near each other is looked at. A round
    that is lines of a table is like itself at the distance of a few lines too, and a loop only at its own."""
    seen: list[Loop] = []
    for loop in sorted(filter(long_enough, loops), key=lambda one: one.period):
        if not any(loop.period <= one.period + 2 * reach(one.period) and _mostly_in(loop, one) for one in seen):
            seen.append(loop)
    return [loop for loop in seen if varies_anywhere(loop, text)]


def _wandering(text: TokenText) -> list[Loop]:
    """The rounds that a text ends in, where what varies are words anywhere, left out and put in."""
    loop = _followed(text, FOLLOWED)
    if loop is not None and loop.start - loop.period <= len(text) - FOLLOWED:
        loop = _followed(text, None) or loop
    return [] if loop is None else [loop]


def _followed(text: TokenText, most: int | None) -> Loop | None:
    trail = follow_back(text.codes, most)
    if trail is None:
        return None
    to_end = trail.end >= len(text) - _tail(trail.period)
    loop = Loop("fuzzy", trail.period, trail.start, len(text) if to_end else trail.end, trail.rate, to_end)
    good = loop.rate >= ROUND_RATE and long_enough(loop) and varies_anywhere(loop, text, trail)
    return loop if good else None


def _candidates(
    codes: NDArray[np.int32],
    counts: NDArray[np.uint8],
    text: TokenText,
    kind: str,
    words: NDArray[np.uint8] | None = None,
) -> list[Loop]:
    """counts: matches of `codes`, the best nearby for a fuzzy loop. words: those once numbers are taken as equal, for a
    fuzzy loop."""
    rate = FUZZY_RATE if kind == "fuzzy" else 1.0
    found = []
    for period, first, last in find_stretches(counts, rate, least=_LEAST[kind]):
        if kind == "fuzzy":
            share = float(counts[period - 1, first : last + 1].mean() / BLOCK)
            stop = (last + 1) * BLOCK
            stop = len(codes) if len(codes) - stop < BLOCK else stop
            loop = Loop(kind, period, max(first * BLOCK - period, 0), stop, share, stop >= len(codes) - _tail(period))
            if words is not None and _numbers_alone(words, loop, first, last):
                continue
        else:
            low = extend_back(codes, first * BLOCK, period)
            stop = extend(codes, (last + 1) * BLOCK, period)
            loop = Loop(kind, period, low - period, stop, 1.0, stop >= len(codes) - _tail(period))
        if loop.rate >= (ROUND_RATE if kind == "fuzzy" else rate):
            found.append(loop)
    return found


def _numbers_alone(words: NDArray[np.uint8], loop: Loop, first: int, last: int) -> bool:
    """Whether next to nothing but numbers varies: a count or a table, unless it is a template to the very end."""
    around = reach(loop.period)
    near = words[max(loop.period - 1 - around, 0) : loop.period + around, first : last + 1].max(axis=0)
    return 1 - near.mean() / BLOCK < WORDS_CHANGED * (1 - loop.rate)


def _tail(period: int) -> int:
    """Tokens that may follow a loop that is cut off by the end of the text."""
    return min(period, BLOCK)
