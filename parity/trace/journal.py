"""Which lines does a manifest hold, and has any been lost or altered? Append-only JSON lines, chained by CRC-32."""

from __future__ import annotations

import json
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from parity.errors import TraceError
from parity.records import as_json
from parity.trace.jsontext import parse_json

MANIFEST = "manifest.jsonl"
MAX_LINE = 16 * 2**20
"""Longest line accepted: the header with some two million token ids. Parsed JSON takes up to 24 times its text in
memory (empty objects), so this bounds what a hostile line can cost at 400 MB."""
TORN: Mapping[str, Any] = {"kind": "torn"}
"""Stands for a last line that a crash cut off."""

SPEC = "See docs/trace-format.md; the trace must be captured again or restored from a copy."
_SEAL = re.compile(rb',"chain":(0|[1-9][0-9]{0,9})\}\n\Z')
_SEAL_BYTES = 24


def encode_line(line: Mapping[str, Any], before: int) -> bytes:
    """A manifest line as bytes, newline included.

    before: CRC-32 of all manifest bytes before the line. The line ends in `"chain":`, the CRC-32 of all bytes up to
    there, its own included, so that the last line is guarded as the others are.
    """
    text = json.dumps(as_json(line), separators=(",", ":"), allow_nan=False)
    body = text[:-1].encode("ascii") + b',"chain":'
    return body + b"%d}\n" % zlib.crc32(body, before)


def read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The lines of a manifest with their places (`.../manifest.jsonl line 3`), chain checked before they are parsed.

    A last line without its newline was cut off by a crash: TORN comes in its place. Raises TraceError for a line that
    is too long, whose chain does not fit the bytes before it, or that is no JSON object.
    """
    before = 0
    with open_plain(path) as file:
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
            _check_chain(raw, before, place)
            before = zlib.crc32(raw, before)
            yield place, _parse(raw, place)


def _check_chain(raw: bytes, before: int, place: str) -> None:
    seal = _SEAL.search(raw, max(len(raw) - _SEAL_BYTES, 0))
    if seal is None:
        raise TraceError(
            place=place,
            expected='a JSON object whose last key is "chain", a number, without blanks',
            found=f"{raw[:40]!r} to {raw[-40:]!r}",
            next_step=SPEC,
        )
    chain = zlib.crc32(raw[: seal.start(1)], before)
    if int(seal[1]) != chain:
        raise TraceError(
            place=place,
            expected=f"chain {chain}, the CRC-32 of all bytes before it",
            found=seal[1].decode(),
            next_step=f"This line, or one before it, was lost or altered. {SPEC}",
        )


def _parse(raw: bytes, place: str) -> dict[str, Any]:
    try:
        line = parse_json(raw)
    except ValueError as error:
        line, why = None, f" ({error})"[:120]
    else:
        why = ""
    if not isinstance(line, dict):
        raise TraceError(place=place, expected="a JSON object", found=f"{raw[:80]!r}{why}", next_step=SPEC)
    return line


def open_plain(path: Path) -> BinaryIO:
    """The manifest at `path`, for reading: never through a link, and never a pipe or a device, which could block."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        link = os.path.islink(path)
        why = error.strerror if isinstance(error, OSError) else None
        raise TraceError(
            place=str(path.parent),
            expected=f"a trace: a folder with {path.name} as a plain file",
            found="a symbolic link" if link else why or str(error),
            next_step="Name the folder that the trace was captured into.",
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise TraceError(place=str(path), expected="a plain file", found="something else", next_step=SPEC)
    return os.fdopen(handle, "rb")
