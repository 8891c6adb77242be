"""Which file of a dump is which stage, and how do its axes lie? A map as data, checked before a tensor is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.errors import UsageError
from parity.importers.layout import spells_axes
from parity.records import Environment, Run
from parity.stages import VOCABULARY, matches, term
from parity.trace.jsontext import is_count, parse_json
from parity.trace.lineage import lineage_of
from parity.trace.manifest import parse_run

PATTERN = "{site}"
FIELDS = {
    "site": r"(?:L(?P<site_layer>\d{1,6})\.)?(?P<site_stage>[a-z0-9_.]+?)",
    "layer": r"(?P<layer>\d{1,6})",
    "name": r"(?P<name>[A-Za-z0-9_.\-]+?)",
    "step": r"(?P<step>\d{1,9})",
    "chunk": r"(?P<chunk>\d{1,9})",
    "request": r"(?P<request>\d{1,9})",
}
NOBODY = {"python": "unknown", "torch": "unknown", "triton": None, "transformers": None, "platform": "unknown",
          "cpu_capability": "unknown", "threads": 0, "device": "unknown", "interpreted": False}  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """One name of a dump: the stage it is and how its axes lie there, slowest first.

    axes: each a letter of the vocabulary, `1` for a size of one that is dropped, or several letters for axes that lie
    in one (`HK`: heads in a row); R, expert rows, may lie as T and S. None: as in the vocabulary.
    dtype: what the bits are, where the file cannot say it (`bfloat16` in 16-bit integers).
    """

    stage: str
    axes: tuple[str, ...] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class StageMap:
    """pattern: file names without their suffix. names: placements by name in the dump; empty: names are stages.
    sizes: of axis letters, to split axes that lie in one. ignore: shell patterns of files that are no captures."""

    run: Run
    pattern: re.Pattern[str]
    names: Mapping[str, Placement] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()

    def place(self, stem: str) -> tuple[Placement, dict[str, int | None]] | None:
        """The placement of a file called `stem`, and its layer, step, chunk and request; None for no known name."""
        match = self.pattern.fullmatch(stem)
        if match is None:
            return None
        found = match.groupdict()
        name = found.get("name") or found.get("site_stage") or ""
        placement = self.names.get(name)
        if placement is None and not self.names and name in VOCABULARY:
            placement = Placement(name)
        layer = found.get("layer") or found.get("site_layer")
        numbers = {key: int(found[key]) if found.get(key) else 0 for key in ("step", "chunk", "request")}
        return None if placement is None else (placement, {"layer": None if layer is None else int(layer), **numbers})

    def ignores(self, name: str) -> bool:
        return bool(self.ignore) and matches(name, self.ignore)


def read_map(path: Path) -> StageMap:
    """The map in a JSON file: `run`, and if you like `pattern`, `stages`, `sizes`, `ignore`.

    Raises UsageError for a file that is none, words that are no stages and patterns that make no sense, TraceError for
    a run that the trace format does not allow.
    """
    place = f"stage map {path}"
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _wrong(place, "a JSON object", f"{type(error).__name__}: {error}"[:200]) from error
    known = {"run", "pattern", "stages", "sizes", "ignore"}
    if not isinstance(content, dict) or "run" not in content or not set(content) <= known:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise _wrong(place, "an object with run, and of " + ", ".join(sorted(known)), str(found)[:200])
    stages, sizes, ignore = content.get("stages", {}), content.get("sizes", {}), content.get("ignore", [])
    if not isinstance(stages, dict) or not isinstance(sizes, dict) or not isinstance(ignore, list):
        raise _wrong(place, "stages and sizes as objects, ignore as a list", "others")
    if not all(len(name) == 1 and is_count(size) and size for name, size in sizes.items()):
        raise _wrong(f"{place}, sizes", "whole numbers above 0 by axis letter", str(sizes)[:200])
    if not all(isinstance(one, str) for one in ignore):
        raise _wrong(f"{place}, ignore", "patterns of file names", str(ignore)[:200])
    names = {name: _placement(value, f"{place}, stages.{name}") for name, value in stages.items()}
    run = _run(content["run"], place, path.parent)
    return StageMap(run, _pattern(content.get("pattern", PATTERN), place), names, sizes, tuple(ignore))


def _placement(value: Any, place: str) -> Placement:
    given = {"stage": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or not set(given) <= {"stage", "axes", "dtype"} or "stage" not in given:
        raise _wrong(place, 'a stage, or {"stage": ..., "axes": [...], "dtype": ...}', repr(value)[:200])
    word = term(given["stage"] if isinstance(given["stage"], str) else "")
    axes, dtype = given.get("axes"), given.get("dtype")
    if axes is not None:
        texts = isinstance(axes, list) and all(isinstance(one, str) and one for one in axes)
        if not texts or not spells_axes(tuple(axes), word):
            raise _wrong(f"{place}, axes", f"the axes of {word.name}, {list(word.axes)}, each once", repr(axes)[:200])
    if dtype is not None and not isinstance(dtype, str):
        raise _wrong(f"{place}, dtype", "the name of a dtype", repr(dtype)[:80])
    return Placement(word.name, None if axes is None else tuple(axes), dtype)


def _pattern(text: Any, place: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", text) if isinstance(text, str) and len(text) < 500 else []
    named = parts[1::2]
    right = len(set(named)) == len(named) and set(named) <= set(FIELDS) and (("site" in named) != ("name" in named))
    if not right or ("site" in named and "layer" in named):
        expected = "text with {site}, or {name} and perhaps {layer}; {step}, {chunk}, {request} besides, each once"
        raise _wrong(f"{place}, pattern", expected, repr(text)[:200])
    return re.compile("".join(FIELDS[one] if n % 2 else re.escape(one) for n, one in enumerate(parts)))


def _run(value: Any, place: str, beside: Path) -> Run:
    """A run as the trace format has it; `recipe` may be a name alone, `lineage` a checkpoint's folder."""
    if not isinstance(value, dict):
        raise _wrong(f"{place}, run", "an object", type(value).__name__)
    given: dict[str, Any] = {"environment": NOBODY, "lineage": {"root": "unknown"}, "recipe": "unknown", **value}
    if isinstance(given["recipe"], str):
        parts = ("name", "weights", "activations", "compute", "accumulate", "kv_cache", "residual")
        given["recipe"] = dict.fromkeys(parts, given["recipe"])
    if isinstance(given["lineage"], str):
        found = lineage_of(beside / given["lineage"])
        given["lineage"] = {"root": found.root, "conversions": list(found.conversions)}
    assert set(NOBODY) == set(Environment.__dataclass_fields__)
    return parse_run(given, place)


def _wrong(place: str, expected: str, found: str) -> UsageError:
    return UsageError(place=place, expected=expected, found=found, next_step="See docs/importing.md.")
