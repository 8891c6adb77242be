"""What does one line of the manifest say? Records to lines and back; a line that says nonsense is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from parity.errors import TraceError
from parity.records import Capture, Environment, Lineage, Recipe, Run, as_json
from parity.stages import VOCABULARY
from parity.trace.journal import SPEC
from parity.trace.jsontext import are_counts, is_count
from parity.trace.shard import BY_NAME

FORMAT = "parity-trace"
VERSION = 1
MOST_LAYERS = 4096
"""A reader lists the sites of all layers, captured or not: a number in a header must not decide on its memory. No
model in use has a tenth of it."""
SHARD_NAME = re.compile(r"shard-[0-9]{5,9}\.safetensors")
# Keys of a capture line that are fields of Capture, with what each must be.
_CAPTURE_KEYS = ("stage", "layer", "phase", "step", "chunk", "axes", "dtype", "shape")


def shard_name(number: int) -> str:
    """File name of shard `number`."""
    return f"shard-{number:05d}.safetensors"


def header_line(run: Run) -> dict[str, Any]:
    """The manifest's first line."""
    return {"kind": "header", "format": FORMAT, "version": VERSION, "run": as_json(run)}


def parse_header(line: Mapping[str, Any], place: str) -> Run:
    """The Run of a header line; raises TraceError for another format or version, or a run that lacks a field."""
    if line.get("kind") != "header" or line.get("format") != FORMAT:
        raise TraceError(
            place=place, expected=f"a header of format {FORMAT}", found=repr(dict(line))[:120], next_step=SPEC
        )
    if line.get("version") != VERSION or isinstance(line.get("version"), bool):
        raise TraceError(
            place=place,
            expected=f"format version {VERSION}",
            found=repr(line.get("version")),
            next_step="Read it with a release of parity-lab that knows this version.",
        )
    return parse_run(line.get("run"), place)


def parse_run(value: Any, place: str) -> Run:
    """A Run from JSON; keys that are not known are ignored, so that a later writer may add some."""
    place = f"{place}, run"
    run = _known(value, place, Run)
    requests = _list_of(run["requests"], f"{place}.requests", "lists of token ids, one a request", _is_ids)
    names = _list_of(run["request_names"], f"{place}.request_names", f"{len(requests)} names", _is_text)
    if len(names) != len(requests):
        raise _refuse(f"{place}.request_names", f"{len(requests)} names", names)
    if not is_count(run["layers"]) or run["layers"] > MOST_LAYERS:
        raise _refuse(f"{place}.layers", f"a number of layers, at most {MOST_LAYERS}", run["layers"])
    declared = _list_of(run.get("declared", []), f"{place}.declared", "pairs of layer (or null) and stage", _is_site)
    for name in ("hyper", "flags"):
        if not isinstance(run.get(name, {}), dict):
            raise _refuse(f"{place}.{name}", "an object", run[name])
    lineage = _known(run["lineage"], f"{place}.lineage", Lineage)
    conversions = _list_of(lineage.get("conversions", []), f"{place}.lineage.conversions", "a list of texts", _is_text)
    return Run(
        family=_text(run["family"], f"{place}.family"),
        model=_text(run["model"], f"{place}.model"),
        layers=run["layers"],
        request_names=tuple(names),
        requests=tuple(tuple(ids) for ids in requests),
        recipe=_parse_recipe(run["recipe"], f"{place}.recipe"),
        lineage=Lineage(root=_text(lineage["root"], f"{place}.lineage.root"), conversions=tuple(conversions)),
        environment=_parse_environment(run["environment"], f"{place}.environment"),
        declared=tuple((layer, stage) for layer, stage in declared),
        hyper=run.get("hyper", {}),
        flags=run.get("flags", {}),
    )


def _parse_recipe(value: Any, place: str) -> Recipe:
    return Recipe(**{key: _text(text, f"{place}.{key}") for key, text in _known(value, place, Recipe).items()})


def _parse_environment(value: Any, place: str) -> Environment:
    found = _known(value, place, Environment)
    for key, item in found.items():
        if key == "threads":
            good = is_count(item)
        elif key == "interpreted":
            good = isinstance(item, bool)
        else:
            good = isinstance(item, str) or (item is None and key in ("triton", "transformers"))
        if not good:
            raise _refuse(f"{place}.{key}", "what docs/trace-format.md says", item)
    return Environment(**found)


def step_line(phase: str, step: int, chunk: int) -> dict[str, Any]:
    """The line that says which step begins: what a killed process was doing is the last of them."""
    return {"kind": "step", "phase": phase, "step": step, "chunk": chunk}


def parse_step(line: Mapping[str, Any], place: str) -> tuple[str, int, int]:
    """(phase, step, chunk) of a step line."""
    if line.get("phase") not in ("prefill", "decode"):
        raise _refuse(f"{place}, phase", "prefill or decode", line.get("phase"))
    for key in ("step", "chunk"):
        if not is_count(line.get(key)):
            raise _refuse(f"{place}, {key}", "a whole number, not negative", line.get(key))
    return line["phase"], line["step"], line["chunk"]


def capture_line(capture: Capture, *, shard: str, tensor: str, crc: int, rows: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest line of one capture whose payload is `tensor` of `shard`."""
    geometry = {key: value for key, value in capture.geometry.items() if key != "row"}
    return {
        "kind": "capture",
        "number": capture.number,
        **{key: getattr(capture, key) for key in _CAPTURE_KEYS},
        "shard": shard,
        "tensor": tensor,
        "crc": crc,
        "rows": rows,
        "geometry": geometry,
        "launch": capture.launch,
        "placement": capture.placement,
        "reduction": capture.reduction,
        "basis": capture.basis,
        "model": capture.model,
        "variant": capture.variant,
    }


def parse_capture(line: Mapping[str, Any], place: str, *, run: Run) -> dict[str, Any]:
    """The checked fields of a capture line, without its rows: keyword arguments of Capture, and shard, tensor, crc.

    Raises TraceError naming the field. A shard must be a plain file name of the format's pattern: no folders, no `..`.
    """

    def check(key: str, good: bool, expected: str) -> None:
        if not good:
            raise _refuse(f"{place}, {key}", expected, line.get(key))

    for key in ("number", "step", "chunk", "crc"):
        check(key, is_count(line.get(key)), "a whole number, not negative")
    stage, layer, shape = line.get("stage"), line.get("layer"), line.get("shape")
    check("stage", isinstance(stage, str) and stage in VOCABULARY, "a stage of the vocabulary")
    layered = layer is None or (is_count(layer) and layer < run.layers)
    check("layer", "layer" in line and layered, f"null or below {run.layers}")
    check("phase", line.get("phase") in ("prefill", "decode"), "prefill or decode")
    decoding = line["phase"] == "decode"
    check("step", decoding == (line["step"] > 0), "1, 2, ... in decode" if decoding else "0 in prefill")
    axes = VOCABULARY[str(stage)].axes
    check("axes", line.get("axes") == list(axes), f"{list(axes)}, the axes of {stage}")
    check("dtype", isinstance(line.get("dtype"), str) and line["dtype"] in BY_NAME, "one of " + ", ".join(BY_NAME))
    sizes = shape if isinstance(shape, list) else []
    check("shape", len(sizes) == len(axes) and all(is_count(size) for size in sizes), f"{len(axes)} sizes")
    check("shape", 0 not in sizes[1:], "no size of zero behind the rows")
    check("shard", _is_shard_name(line.get("shard")), "a file name like shard-00000.safetensors, without a folder")
    check("tensor", isinstance(line.get("tensor"), str), "the name of a tensor in the shard")
    for key in ("geometry", "launch"):
        check(key, isinstance(line.get(key, {}), dict), "an object")
    check("geometry", _is_geometry(line.get("geometry", {})), _GEOMETRY)
    check("launch", _is_launch(line.get("launch", {})), _LAUNCH)
    check("placement", _is_placement(line.get("placement"), len(axes)), _PLACEMENT)
    check("reduction", line.get("reduction", "complete") in ("complete", "partial"), "complete or partial")
    check("model", line.get("model", "target") in ("target", "draft"), "target or draft")
    for key in ("basis", "variant"):
        check(key, isinstance(line.get(key), (str, type(None))), "a word or null")
    return {
        "shard": line["shard"],
        "tensor": line["tensor"],
        "crc": line["crc"],
        "number": line["number"],
        **{key: line[key] for key in _CAPTURE_KEYS},
        "axes": axes,
        "shape": tuple(sizes),
        "geometry": dict(line.get("geometry", {})),
        "launch": dict(line.get("launch", {})),
        "placement": line.get("placement"),
        "reduction": line.get("reduction", "complete"),
        "basis": line.get("basis"),
        "model": line.get("model", "target"),
        "variant": line.get("variant"),
    }


def restore_geometry(geometry: dict[str, Any], row: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """Geometry with the launch's row numbers put back where a filter kept only some rows."""
    return geometry if row is None else {**geometry, "row": row}


def _is_shard_name(value: Any) -> bool:
    return _is_text(value) and SHARD_NAME.fullmatch(value) is not None


def _is_site(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and (value[0] is None or is_count(value[0]))
        and isinstance(value[1], str)
        and value[1] in VOCABULARY
    )


_GEOMETRY = "tile_m a number above 0, expert_offsets numbers from 0 that never fall, and no row (see rows)"
_LAUNCH = "grid a list of numbers, block an object, covers and requires objects of the same keys and of numbers"
_PLACEMENT = "null, or global_shape and offset with a number an axis, and rank a number"


def _is_geometry(value: dict[str, Any]) -> bool:
    tile, offsets = value.get("tile_m"), value.get("expert_offsets")
    return (
        "row" not in value
        and (tile is None or (is_count(tile) and tile > 0))
        and (offsets is None or (are_counts(offsets) and offsets == sorted(offsets) and offsets[:1] in ([], [0])))
    )


def _is_launch(value: dict[str, Any]) -> bool:
    covers, requires = value.get("covers", {}), value.get("requires", {})
    return (
        are_counts(value.get("grid", []))
        and all(isinstance(part, dict) for part in (covers, requires, value.get("block", {})))
        and ("requires" not in value or covers.keys() == requires.keys())
        and are_counts([*covers.values(), *requires.values()])
    )


def _is_placement(value: Any, axes: int) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, dict)
        and all(are_counts(value.get(key)) and len(value[key]) == axes for key in ("global_shape", "offset"))
        and is_count(value.get("rank"))
    )


def _is_ids(value: Any) -> bool:
    return are_counts(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(value: Any, place: str, expected: str, fits: Callable[[Any], bool]) -> list[Any]:
    if not isinstance(value, list) or not all(fits(item) for item in value):
        raise _refuse(place, expected, value)
    return value


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _refuse(place, "a text", value)
    return value


def _known(value: Any, place: str, record: type[Any]) -> dict[str, Any]:
    """The known fields of `record` in a JSON object, all required ones present."""
    if not isinstance(value, dict):
        raise _refuse(place, "an object", value)
    known = fields(record)
    missing = [
        item.name
        for item in known
        if item.name not in value and item.default is MISSING and item.default_factory is MISSING
    ]
    if missing:
        raise _refuse(place, "the fields " + ", ".join(missing), sorted(value))
    return {item.name: value[item.name] for item in known if item.name in value}


def _refuse(place: str, expected: str, found: Any) -> TraceError:
    return TraceError(place=place, expected=expected, found=repr(found)[:200], next_step=SPEC)
