"""Where does an investigation lie on disk, and how is it read back? Every file is renamed into place when whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from parity.climb.rung import Rung, RungResult
from parity.errors import UsageError
from parity.reading import read_record
from parity.records import as_json

CASE, FINDING, RUNGS, TRACES = "case.json", "finding.json", "rungs", "traces"


def write_json(path: Path, content: Any) -> None:
    """Write records and plain values; a process that is killed leaves the file as it was, or whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".half")
    with open(half, "w", encoding="utf-8") as file:
        file.write(json.dumps(as_json(content), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file of an investigation. Raises UsageError for one that is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            place=str(path),
            expected="a file of an investigation",
            found=f"{type(error).__name__}: {error}"[:200],
            next_step="Run `parity investigate --out` into this folder first, with --resume if it was interrupted.",
        ) from error


def read_case(folder: Path) -> dict[str, Any]:
    """What `case.json` holds: `case`, `environment`, `commands`. Raises UsageError as `read_json` does."""
    content = read_json(folder / CASE)
    if not isinstance(content, dict) or not isinstance(content.get("case"), dict):
        raise UsageError(
            place=str(folder / CASE),
            expected="an object with `case`",
            found=f"{str(content)[:80]}",
            next_step="Run `parity investigate --out` into another folder.",
        )
    return content


def read_result(folder: Path, rung: Rung) -> RungResult | None:
    """The stored result of a rung; None when it did not finish."""
    path = folder / RUNGS / rung.file
    return read_record(RungResult, read_json(path), place=str(path)) if path.is_file() else None


def read_results(folder: Path) -> tuple[RungResult, ...]:
    """Every stored result, in order of the rungs."""
    paths = sorted((folder / RUNGS).glob("[0-9][0-9]-*.json"))
    return tuple(read_record(RungResult, read_json(path), place=str(path)) for path in paths)
