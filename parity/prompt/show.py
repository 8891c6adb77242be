"""What does a person paste into a report? The answer, the explanations, and both prompts where they differ, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parity.prompt.record import PromptComparison

CONTEXT = 4
"""Ids shown before and after a difference."""

LONGEST = 60
"""Ids of one side of a difference shown in full; of longer ones, the ends."""

HUNKS = 20
"""Differences shown."""


def report_lines(comparison: PromptComparison) -> Iterator[str]:
    """The comparison as lines of plain text: ids in order, special tokens and blanks visible (· ⏎ ⇥)."""
    c = comparison
    reference, sut = len(c.reference_ids), len(c.sut_ids)
    tried = f"{c.tried} setting{'s' * (c.tried > 1)} tried" + ("" if c.all_tried else ", not all there are")
    if c.same:
        yield f"prompt    same: {sut} ids" + (f", equal under {_said(c.settings)}" if c.settings else "")
    elif c.reference_ids == c.sut_ids:
        yield f"prompt    the same {sut} ids, COUNTED OTHERWISE"
    else:
        yield f"prompt    DIFFERENT: the SUT fed {sut} ids, the template gives {reference}"
    yield f"model     {c.model}, template {c.template}" + (f", asked for {_said(c.asked)}" if c.asked else "")
    if c.unread:
        yield f"          the template does not read {', '.join(c.unread)}"
    yield f"fed       {c.source}" + ("" if c.counted is None else f"; it counts {c.counted} prompt tokens")
    if c.same:
        return
    under = f"nearest under {_said(c.settings)}; " if c.settings else ""
    yield f"settings  {under}{tried}"
    for number, one in enumerate(c.explanations, 1):
        part = "" if one.complete else " (part of the difference)"
        yield f"{'why' if number == 1 else '':9} {number}. {one.name}{part}: {one.sentence}"
    if c.first is not None:
        sides = ["the end" if side is None else f"{side[0]} {side[1]}" for side in (c.first.reference, c.first.sut)]
        yield f"first     position {c.first.position}: template {sides[0]}, SUT {sides[1]}; before it {c.first.before}"
    yield from diff_lines(c)


def diff_lines(comparison: PromptComparison) -> Iterator[str]:
    """The template diff: `-` what the template writes and the SUT does not, `+` the other way round."""
    c = comparison
    if c.hunks:
        yield f"--- template  {c.template}"
        yield f"+++ SUT       {c.source}"
    for hunk in c.hunks[:HUNKS]:
        (a, b), (i, j) = hunk.reference, hunk.sut
        yield f"@@ -{a},{b - a} +{i},{j - i} @@ ids"
        before = c.reference_pieces[max(0, a - CONTEXT) : a]
        after = c.reference_pieces[b : b + CONTEXT]
        if before:
            yield "  " + "".join(before)
        yield from _side("-", c.reference_ids[a:b], c.reference_pieces[a:b])
        yield from _side("+", c.sut_ids[i:j], c.sut_pieces[i:j])
        if after:
            yield "  " + "".join(after)
    if len(c.hunks) > HUNKS:
        yield f"... and {len(c.hunks) - HUNKS} differences more"


def _side(sign: str, ids: tuple[int, ...], pieces: tuple[str, ...]) -> Iterator[str]:
    if not ids:
        return
    kept = range(len(ids)) if len(ids) <= LONGEST else [*range(LONGEST // 2), *range(len(ids) - LONGEST // 2, len(ids))]
    shown, numbers, last = [], [], -1
    for at in kept:
        if at != last + 1:
            shown.append(f" [{at - last - 1} ids] ")
            numbers.append("...")
        shown.append(pieces[at])
        numbers.append(str(ids[at]))
        last = at
    yield f"{sign} {''.join(shown)}"
    yield f"{sign}   {' '.join(numbers)}"


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
