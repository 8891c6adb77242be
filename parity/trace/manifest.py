"""What does one line of the manifest say? Lines to records and back, chained so that a lost or altered line shows."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from parity.errors import TraceError
from parity.records import Capture, Environment, Lineage, Recipe, Run, as_json
from parity.stages import VOCABULARY
from parity.trace.shard import BY_NAME, is_count

FORMAT = "parity-trace"
VERSION = 1
MANIFEST = "manifest.jsonl"
SHARD_NAME = re.compile(r"shard-[0-9]{5,9}\.safetensors")
MAX_LINE = 256 * 2**20
"""Longest manifest line accepted: the header with its token ids is the longest one."""

_SPEC = "See docs/trace-format.md; the trace must be captured again or restored from a copy."
# Keys of a capture line that are fields of Capture, with what each must be.
_CAPTURE_KEYS = ("stage", "layer", "phase", "step", "chunk", "axes", "dtype", "shape")


def shard_name(number: int) -> str:
    """File name of shard `number`."""
    return f"shard-{number:05d}.safetensors"


def encode_line(line: Mapping[str, Any], chain: int) -> bytes:
    """A manifest line as bytes, newline included; `chain` is the CRC-32 of all manifest bytes before it."""
    text = json.dumps({**as_json(line), "chain": chain}, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a manifest with their places (`.../manifest.jsonl line 3`), chain checked.

    A last line without its newline was cut off by a crash: it is left out. Raises TraceError for a line that is too
    long, no JSON object, or whose chain does not fit the bytes before it.
    """
    chain = 0
    try:
        file = path.open("rb")
    except OSError as error:
        raise TraceError(
            place=str(path.parent),
            expected=f"a trace: a folder with {MANIFEST}",
            found=error.strerror or str(error),
            next_step="Name the folder that the trace was captured into.",
        ) from error
    with file:
        number = 0
        while raw := file.readline(MAX_LINE):
            number += 1
            place = f"{path} line {number}"
            if not raw.endswith(b"\n"):
                if len(raw) == MAX_LINE:
                    raise TraceError(
                        place=place, expected=f"at most {MAX_LINE} bytes", found="a longer line", next_step=_SPEC
                    )
                return
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                raise TraceError(place=place, expected="a JSON object", found=repr(raw[:80]), next_step=_SPEC) from None
            if not isinstance(line, dict):
                raise TraceError(place=place, expected="a JSON object", found=repr(raw[:80]), next_step=_SPEC)
            if line.get("chain") != chain or isinstance(line.get("chain"), bool):
                raise TraceError(
                    place=place,
                    expected=f"chain {chain}, the CRC-32 of all bytes before this line",
                    found=repr(line.get("chain")),
                    next_step=f"A line before this one was lost or altered. {_SPEC}",
                )
            chain = zlib.crc32(raw, chain)
            yield place, line


def header_line(run: Run) -> dict[str, Any]:
    """The manifest's first line."""
    return {"kind": "header", "format": FORMAT, "version": VERSION, "run": as_json(run)}


def parse_header(line: Mapping[str, Any], place: str) -> Run:
    """The Run of a header line; raises TraceError for another format or version, or a run that lacks a field."""
    if line.get("kind") != "header" or line.get("format") != FORMAT:
        raise TraceError(
            place=place, expected=f"a header of format {FORMAT}", found=repr(dict(line))[:120], next_step=_SPEC
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
    run = _mapping(value, f"{place}, run", Run)
    requests = run.get("requests")
    names = run.get("request_names")
    if not _list_of(requests, lambda ids: _list_of(ids, is_count)):
        raise _refuse(f"{place}, run.requests", "lists of token ids, one a request", requests)
    if not _list_of(names, lambda name: isinstance(name, str)) or len(names) != len(requests):
        raise _refuse(f"{place}, run.request_names", f"{len(requests)} names", names)
    if not is_count(run.get("layers")):
        raise _refuse(f"{place}, run.layers", "a number of layers", run.get("layers"))
    declared = run.get("declared", [])
    if not _list_of(declared, _is_site):
        raise _refuse(f"{place}, run.declared", "pairs of layer (or null) and stage", declared)
    for name in ("hyper", "flags"):
        if not isinstance(run.get(name, {}), dict):
            raise _refuse(f"{place}, run.{name}", "an object", run[name])
    lineage = _mapping(run.get("lineage"), f"{place}, run.lineage", Lineage)
    conversions = lineage.get("conversions", [])
    if not _list_of(conversions, lambda text: isinstance(text, str)):
        raise _refuse(f"{place}, run.lineage.conversions", "a list of words", conversions)
    return Run(
        family=_text(run["family"], f"{place}, run.family"),
        model=_text(run["model"], f"{place}, run.model"),
        layers=run["layers"],
        request_names=tuple(names),
        requests=tuple(tuple(ids) for ids in requests),
        recipe=Recipe(
            **{
                key: _text(text, f"{place}, run.recipe.{key}")
                for key, text in _mapping(run.get("recipe"), f"{place}, run.recipe", Recipe).items()
            }
        ),
        lineage=Lineage(root=_text(lineage["root"], f"{place}, run.lineage.root"), conversions=tuple(conversions)),
        environment=Environment(**_mapping(run.get("environment"), f"{place}, run.environment", Environment)),
        declared=tuple((layer, stage) for layer, stage in declared),
        hyper=run.get("hyper", {}),
        flags=run.get("flags", {}),
    )


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
    check("layer", layer is None or (is_count(layer) and layer < run.layers), f"null or below {run.layers}")
    check("phase", line.get("phase") in ("prefill", "decode"), "prefill or decode")
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
    check("placement", isinstance(line.get("placement"), (dict, type(None))), "an object or null")
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
    return isinstance(value, str) and SHARD_NAME.fullmatch(value) is not None


def _is_site(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and (value[0] is None or is_count(value[0]))
        and value[1] in VOCABULARY
    )


def _list_of(value: Any, fits: Any) -> bool:
    return isinstance(value, list) and all(fits(item) for item in value)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _refuse(place, "a text", value)
    return value


def _mapping(value: Any, place: str, record: type[Any]) -> dict[str, Any]:
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
    return TraceError(place=place, expected=expected, found=repr(found)[:200], next_step=_SPEC)
