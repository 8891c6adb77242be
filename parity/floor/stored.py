"""Is this JSON a stored floor? A floor decides verdicts: one with a field of another kind is refused, never guessed."""

from __future__ import annotations

import math
from typing import Any

from parity.floor.bins import Bin, as_bin
from parity.floor.gate import Gate, Scale
from parity.records import Lineage, Recipe

_BIN_FIELDS = len(Bin._fields)
_SCALE_FIELDS = 4


def parse_recipe(value: Any) -> Recipe:
    """A recipe from its JSON object of texts; ValueError for another form."""
    names = set(Recipe.__dataclass_fields__)
    if not isinstance(value, dict) or set(value) != names or not _texts(list(value.values())):
        raise ValueError("recipe: not the texts " + ", ".join(sorted(names)))
    return Recipe(**value)


def parse_lineage(value: Any) -> Lineage:
    """A lineage from its JSON object; ValueError for another form."""
    if not isinstance(value, dict) or not _texts([value.get("root")]) or not _texts(value.get("conversions")):
        raise ValueError("lineage: not a root and a list of conversions")
    return Lineage(value["root"], tuple(value["conversions"]))


def parse_runs(value: Any) -> tuple[str, ...]:
    """Names of the clean runs; ValueError for another form."""
    if not _texts(value):
        raise ValueError("runs: not a list of texts")
    return tuple(value)


def parse_scales(value: Any) -> dict[Bin, Scale]:
    """Scales by bin from JSON lists of their fields; ValueError for another form or a bin twice."""
    found: dict[Bin, Scale] = {}
    for entry in value if isinstance(value, list) else [None]:
        if not isinstance(entry, list) or len(entry) != _BIN_FIELDS + _SCALE_FIELDS or not _is_bin(entry):
            raise ValueError(f"bins: an entry is {str(entry)[:120]}")
        centre, spread, runs, counts = entry[-_SCALE_FIELDS:]
        # A bin that does not count has too few values for a centre.
        measured = all(_is_number(x) and x >= 0 for x in (centre, spread))
        if not isinstance(counts, bool) or not _is_count(runs) or (counts and not measured):
            raise ValueError(f"bins: a scale is {entry[-_SCALE_FIELDS:]}")
        key = as_bin(entry[:-_SCALE_FIELDS])
        if key in found:
            raise ValueError(f"bins: {key} twice")
        found[key] = Scale(centre, spread, runs, counts)
    return found


def parse_gates(value: Any) -> dict[str, Gate]:
    """Gates by mode; ValueError for another form, or a bound that is no finite number."""
    found = {}
    for mode, gate in value.items() if isinstance(value, dict) else [("gates", None)]:
        if not isinstance(gate, dict) or not isinstance(gate.get("run_z"), list):
            raise ValueError(f"gates: {mode} is {str(gate)[:120]}")
        numbers = [gate.get("z"), gate.get("level"), *gate["run_z"]]
        if not all(_is_number(number) for number in numbers) or not 0 < gate["level"] < 1:
            raise ValueError(f"gates: {mode} has z {gate.get('z')}, level {gate.get('level')}")
        found[mode] = Gate(gate["z"], tuple(gate["run_z"]), gate["level"])
    return found


def _is_bin(entry: list[Any]) -> bool:
    mode, stage, layer, kind, metric, phase, position, size = entry[:_BIN_FIELDS]
    ranges = all(isinstance(x, int) and not isinstance(x, bool) and x >= -2 for x in (position, size))
    return _texts([mode, stage, kind, metric, phase]) and ranges and (layer is None or _is_count(layer))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
