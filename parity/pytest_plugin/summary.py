"""What was written or rewritten, and by how many floors has it moved? Lines for the end of the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.golden import Golden, GoldenFloor
    from parity.records import Comparison

PROPERTY = "parity_golden"
"""Under this name a test's report carries what happened to its goldens, one JSON list an event."""

SHOWN = 3
"""Tensors that are named in a line."""


def summary_lines(stats: Mapping[str, Iterable[Any]]) -> list[str]:
    """One line for every golden that was written or rewritten, and how many stayed as they were."""
    events: dict[tuple[str, ...], None] = {}
    for reports in stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY:
                    events[tuple(json.loads(value))] = None
    lines = [f"{event}: {path}: {'; '.join(words)}" for event, path, *words in events if event != "unchanged"]
    unchanged = sum(event[0] == "unchanged" for event in events)
    return sorted(lines) + ([f"unchanged: {unchanged}"] if unchanged else [])


def moved(old: Golden, new: Golden, floor: GoldenFloor) -> tuple[list[str], bool]:
    """What is different, in words, and whether nothing is: then the file may stay as it is."""
    from parity.compare import harmless
    from parity.errors import ParityError
    from parity.golden import combine
    from parity.golden.check import compare_within
    from parity.golden.numerics import difference_words
    from parity.records import Verdict

    words = []
    try:
        limits = combine(then=new.measured[0], now=new.measured[0]) if new.measured else {}
        summary = compare_within(old.contents, new.contents, floor=floor, limits=limits)
    except ParityError as error:
        words.append(f"not comparable with the old one: {error}")
        records, changed = (), []
    else:
        records = summary.comparisons
        changed = [r for r in records if r.verdict is not Verdict.MATCH]
    if changed:
        changed.sort(key=lambda r: float("inf") if r.over_floor is None else r.over_floor, reverse=True)
        named = [f"{harmless(r.name)} {_moved_words(r)}" for r in changed[:SHOWN]]
        more = f", {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        words.append(f"{len(changed)} of {len(records)} moved: {', '.join(named)}{more}")
    for what, a, b in (
        ("floor", old.floor, new.floor),
        ("positions", old.positions, new.positions),
        ("measured environments", len(old.measured), len(new.measured)),
    ):
        if a != b and not (what.startswith("measured") and a and b):
            words.append(f"{what} {a} -> {b}")
    same = not words
    elsewhere = difference_words(golden=old.numerics, here=new.numerics)
    return [*words, *([f"environment: {elsewhere}"] if elsewhere else [])], same


def _moved_words(record: Comparison) -> str:
    from parity.compare.ranking import slice_words

    if record.over_floor is None:
        return record.reason
    return f"by {record.over_floor:.3g} floors at {slice_words(record)}"


def size_words(size: int) -> str:
    """Bytes for a reader."""
    return f"{size} bytes" if size < 10_000 else f"{size / 1000:.0f} KB"
