"""What does a stage map's file say? TOML, every word checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.errors import ConfigError
from parity_oracles.stagemap.record import Part, StageMap, Tensor

MAPS = Path(__file__).resolve().parent / "maps"
TOP = {"engine", "family", "about", "tensor", "unobservable"}
WORDS = {"name", "stages", "axes", "take", "result", "rounds", "occurrence", "layers", "about"}
ROUNDS = ("float32", "float64", "bfloat16", "float16")


def known_maps() -> dict[tuple[str, str], Path]:
    """The maps that come with the lab, by (engine, family)."""
    return {tuple(path.stem.split("-", 1)): path for path in sorted(MAPS.glob("*.toml"))}  # pyright: ignore[reportReturnType]


def load_map(engine: str, family: str) -> StageMap:
    """The lab's own map of `engine` for `family`; ConfigError, naming those there are, when there is none."""
    known = known_maps()
    if (engine, family) not in known:
        there = ", ".join(f for e, f in known if e == engine)
        raise ConfigError(
            place=f"stage map of {engine} for {family}",
            expected=f"one of the families mapped: {there or 'none'}",
            found=repr(family),
            next_step="Write one (docs/engines.md) and give it to the runner, or run a family that is mapped.",
        )
    return read_map(known[engine, family])


def read_map(path: Path) -> StageMap:
    """The map in a TOML file; ConfigError for a word that is none of the format's, a stage left out or had twice."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _wrong(str(path), "a stage map in TOML", f"{type(error).__name__}: {error}"[:200]) from error
    return parse_map(content, place=str(path))


def parse_map(content: Mapping[str, Any], *, place: str = "stage map") -> StageMap:
    """The map in a mapping, as TOML gives it."""
    if not set(content) <= TOP or not {"engine", "family", "tensor"} <= set(content):
        raise _wrong(place, "engine, family and tensor, and of " + ", ".join(sorted(TOP)), ", ".join(sorted(content)))
    engine, family = content["engine"], content["family"]
    tensors, unobservable = content["tensor"], content.get("unobservable", {})
    if not (isinstance(engine, str) and isinstance(family, str)):
        raise _wrong(place, "engine and family as text", repr((engine, family))[:200])
    if not isinstance(tensors, list) or not isinstance(unobservable, Mapping):
        raise _wrong(place, "[[tensor]] tables and one table [unobservable]", "others")
    return StageMap(
        engine, family, tuple(_tensor(one, f"{place}, tensor {n}") for n, one in enumerate(tensors)), dict(unobservable)
    )


def _tensor(given: Any, place: str) -> Tensor:
    if not isinstance(given, Mapping) or not set(given) <= WORDS or not {"name", "stages", "axes"} <= set(given):
        found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
        raise _wrong(place, "name, stages and axes, and of " + ", ".join(sorted(WORDS)), str(found)[:200])
    name, take = given["name"], given.get("take", "output")
    place = f"{place} ({name})"
    stages, axes = _texts(given["stages"], f"{place}, stages"), _texts(given["axes"], f"{place}, axes")
    if not isinstance(name, str) or not isinstance(take, str):
        raise _wrong(place, "name and take as text", repr((name, take))[:200])
    if len(stages) != len(axes):
        raise _wrong(place, "axes for each stage", f"{len(stages)} stages and {len(axes)} axes")
    result, occurrence, rounds = given.get("result", 0), given.get("occurrence", 0), given.get("rounds")
    results = tuple(result) if isinstance(result, list) else (result,)
    if not all(_is_count(one) for one in results) or len(set(results)) != len(results):
        raise _wrong(f"{place}, result", "a number from 0, or several different ones", repr(result)[:80])
    if occurrence != "layer" and not _is_count(occurrence):
        raise _wrong(f"{place}, occurrence", 'a number from 0, or "layer"', repr(occurrence)[:80])
    if rounds is not None and (rounds not in ROUNDS or len(results) < 2):
        raise _wrong(f"{place}, rounds", f"one of {', '.join(ROUNDS)}, for a sum of results", repr(rounds)[:80])
    parts = tuple(Part(stage, tuple(axis.split())) for stage, axis in zip(stages, axes, strict=True))
    number = None if occurrence == "layer" else occurrence
    return Tensor(name, parts, take, results, rounds, number, _layers(given.get("layers", ":"), f"{place}, layers"))


def _layers(text: Any, place: str) -> tuple[int | None, int | None]:
    first, colon, stop = text.partition(":") if isinstance(text, str) else ("", "", "")
    try:
        if colon:
            return int(first) if first else None, int(stop) if stop else None
    except ValueError:
        pass
    raise _wrong(place, 'a range of layers as a Python slice, "1:" or ":-1"', repr(text)[:80])


def _texts(value: Any, place: str) -> list[str]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or not all(isinstance(one, str) and one.strip() for one in given):
        raise _wrong(place, "a text, or a list of texts", repr(value)[:200])
    return given


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _wrong(place: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        place=place, expected=expected, found=found, next_step="Correct the map; docs/engines.md says what it holds."
    )
