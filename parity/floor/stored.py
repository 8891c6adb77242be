"""Is this JSON a stored floor? A floor decides verdicts: one with a field of another kind is refused, never guessed."""

from __future__ import annotations

import math
from typing import Any

from parity.floor.bins import Bin
from parity.floor.gate import Gate, Scale
from parity.records import Environment, HeldOut, Lineage, Power, Recipe

_RANGES = 2  # position and size
_SCALE_FIELDS = 3


def parse_rule(value: Any) -> int:
    """The number of the rule that made the gates, 0 where the file does not say; ValueError for another form."""
    if not _is_count(value):
        raise ValueError(f"rule: {str(value)[:120]}")
    return value


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


def parse_texts(value: Any, what: str) -> tuple[str, ...]:
    """A list of texts; ValueError, naming `what`, for another form."""
    if not _texts(value):
        raise ValueError(f"{what}: not a list of texts")
    return tuple(value)


def parse_scales(value: Any) -> dict[Bin, Scale]:
    """Scales by bin from groups of their fields; ValueError for another form or a bin twice."""
    found: dict[Bin, Scale] = {}
    for entry in value if isinstance(value, list) else [None]:
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(part, list) for part in entry):
            raise ValueError(f"bins: a group is {str(entry)[:120]}")
        group, members = entry
        for member in members:
            if not isinstance(member, list) or len(member) != _RANGES + _SCALE_FIELDS or not _is_bin(group, member):
                raise ValueError(f"bins: an entry is {str([group, member])[:120]}")
            centre, spread, runs = member[_RANGES:]
            if not all(_is_number(x) and x >= 0 for x in (centre, spread)) or not _is_count(runs) or not runs:
                raise ValueError(f"bins: a scale is {member[_RANGES:]}")
            key = Bin._make([*group, *member[:_RANGES]])
            if key in found:
                raise ValueError(f"bins: {key} twice")
            found[key] = Scale(centre, spread, runs)
    return found


def parse_environment(value: Any) -> Environment | None:
    """An environment, or None; ValueError for another form."""
    if value is None:
        return None
    _refuse_fields(Environment, value, "environment")
    texts = [value[name] for name in ("python", "torch", "platform", "cpu_capability", "device")]
    maybe = [value[name] for name in ("triton", "transformers") if value[name] is not None]
    if not _texts([*texts, *maybe]) or not _is_count(value["threads"]) or not isinstance(value["interpreted"], bool):
        raise ValueError(f"environment: {str(value)[:120]}")
    return Environment(**value)


def parse_heldout(value: Any) -> HeldOut | None:
    """False alarms, or None; ValueError for another form. An infinite worst score is one that JSON can write."""
    if value is None:
        return None
    _refuse_fields(HeldOut, value, "heldout")
    counts = all(_is_count(value[name]) for name in ("runs", "documents", "alarms", "unjudged"))
    rates = all(_is_number(value[name]) for name in ("upper_bound", "confidence"))
    worst = value["worst"]
    if not counts or not rates or not (_is_number(worst) or worst == math.inf) or not _texts([value["worst_where"]]):
        raise ValueError(f"heldout: {str(value)[:120]}")
    return HeldOut(**value)


def parse_power(value: Any) -> tuple[Power, ...]:
    """Power, entry by entry; ValueError for another form."""
    found = []
    for entry in value if isinstance(value, list) else [None]:
        if not isinstance(entry, list) or len(entry) != len(Power.__dataclass_fields__) or not _texts(entry[:4]):
            raise ValueError(f"power: an entry is {str(entry)[:120]}")
        strength, tried, rows = entry[4:]
        if not (strength is None or _is_number(strength)) or not _is_number(tried) or not _is_count(rows):
            raise ValueError(f"power: an entry is {entry}")
        found.append(Power(*entry))
    return tuple(found)


def parse_gates(value: Any) -> dict[str, Gate]:
    """Gates by mode; ValueError for another form, or a bound that is no finite number."""
    found = {}
    for mode, gate in value.items() if isinstance(value, dict) else [("gates", None)]:
        if not isinstance(gate, dict) or not isinstance(gate.get("run_z"), list):
            raise ValueError(f"gates: {mode} is {str(gate)[:120]}")
        if set(gate) != set(Gate.__dataclass_fields__) or not _texts([gate["method"]]):
            raise ValueError(f"gates: {mode} is {str(gate)[:120]}")
        numbers = [gate.get("z"), gate.get("level"), *gate["run_z"]]
        if not all(_is_number(number) for number in numbers) or not 0 < gate["level"] < 1:
            raise ValueError(f"gates: {mode} has z {gate.get('z')}, level {gate.get('level')}")
        found[mode] = Gate(gate["z"], tuple(gate["run_z"]), gate["level"], gate["method"])
    return found


def _is_bin(group: list[Any], member: list[Any]) -> bool:
    if len(group) != len(Bin._fields) - _RANGES:
        return False
    mode, stage, layer, kind, metric, phase = group
    ranges = all(isinstance(x, int) and not isinstance(x, bool) and x >= -2 for x in member[:_RANGES])
    return _texts([mode, stage, kind, metric, phase]) and ranges and (layer is None or _is_count(layer))


def _refuse_fields(record: type[Any], value: Any, what: str) -> None:
    names = set(record.__dataclass_fields__)
    if not isinstance(value, dict) or set(value) != names:
        raise ValueError(f"{what}: not the fields {', '.join(sorted(names))}")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
