"""Which lines does a manifest hold, and has any been lost or altered? Append-only JSON lines, chained by CRC-32."""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from parity.errors import TraceError
from parity.records import as_json

MANIFEST = "manifest.jsonl"
MAX_LINE = 256 * 2**20
"""Longest line accepted; the header with its token ids is the longest one."""
TORN: Mapping[str, Any] = {"kind": "torn"}
"""Stands for a last line that a crash cut off."""

SPEC = "See docs/trace-format.md; the trace must be captured again or restored from a copy."


def encode_line(line: Mapping[str, Any], chain: int) -> bytes:
    """A manifest line as bytes, newline included; `chain` is the CRC-32 of all manifest bytes before it."""
    text = json.dumps({**as_json(line), "chain": chain}, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The lines of a manifest with their places (`.../manifest.jsonl line 3`), chain checked.

    A last line without its newline was cut off by a crash: TORN comes in its place. Raises TraceError for a line that
    is too long or no JSON object, or whose chain does not fit the bytes before it.
    """
    chain = 0
    with _open(path) as file:
        number = 0
        while raw := file.readline(MAX_LINE):
            number += 1
            place = f"{path} line {number}"
            if not raw.endswith(b"\n"):
                if len(raw) == MAX_LINE:
                    raise TraceError(
                        place=place, expected=f"at most {MAX_LINE} bytes", found="a longer line", next_step=SPEC
                    )
                yield place, TORN
                return
            line = _parse(raw)
            if line is None:
                raise TraceError(place=place, expected="a JSON object", found=repr(raw[:80]), next_step=SPEC)
            if line.get("chain") != chain or isinstance(line.get("chain"), bool):
                raise TraceError(
                    place=place,
                    expected=f"chain {chain}, the CRC-32 of all bytes before this line",
                    found=repr(line.get("chain")),
                    next_step=f"A line before this one was lost or altered. {SPEC}",
                )
            chain = zlib.crc32(raw, chain)
            yield place, line


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _open(path: Path) -> Any:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise TraceError(
            place=str(path.parent),
            expected=f"a trace: a folder with {MANIFEST} as a plain file",
            found="a symbolic link" if path.is_symlink() else error.strerror or str(error),
            next_step="Name the folder that the trace was captured into.",
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise TraceError(place=str(path), expected="a plain file", found="something else", next_step=SPEC)
    return os.fdopen(handle, "rb")
