"""What came of a case, and how it is kept: one line of JSON each, written when the case ends."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from parity.records import Finding, Slice, as_json

STATUSES = ("done", "failed", "timeout")


@dataclass(frozen=True)
class Outcome:
    """status: `done`, `failed` (the investigation raised, or its process died), or `timeout`; error: why, in words.

    finding: as the investigator gave it; said: what each part of it came to, in a sentence. seconds: of the whole
    case, its processes' start included; parts: of them.
    forwards, generations: of the engine. stages, layers: what the engine shows, and of how many layers.
    """

    status: str
    seconds: float
    error: str = ""
    finding: Finding | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    forwards: int | None = None
    generations: int | None = None
    stages: tuple[str, ...] = ()
    layers: int = 0
    said: Mapping[str, str] = field(default_factory=dict)


def read_finding(content: Mapping[str, Any]) -> Finding:
    """A finding from its JSON; what JSON cannot tell from a list stays one, but for layers, alternatives and slice."""
    known = {item.name for item in fields(Finding)} & set(content)
    values = {name: content[name] for name in known}
    for name in ("layers", "alternatives", "not_excluded"):
        values[name] = tuple(values.get(name) or ())
    numbers = values.get("slice") or {}
    values["slice"] = Slice(**{axis: None if at is None else tuple(at) for axis, at in numbers.items()})
    return Finding(**values)


def read_outcome(content: Mapping[str, Any]) -> Outcome:
    """An outcome from its JSON. Raises KeyError, TypeError or ValueError for anything else."""
    values = {item.name: content[item.name] for item in fields(Outcome) if item.name in content}
    if values.get("status") not in STATUSES:
        raise ValueError(f"status {values.get('status')!r}")
    values["finding"] = None if values.get("finding") is None else read_finding(values["finding"])
    values["stages"] = tuple(values.get("stages") or ())
    return Outcome(**values)


class Journal:
    """The outcomes of a campaign by key of the case, in a file that only grows.

    A last line that was cut off (a machine that went away) is passed by and written over by what is run again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.known: dict[str, Outcome] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self.known[entry["key"]] = read_outcome(entry["outcome"])
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        self._torn = bool(text) and not text.endswith("\n")

    def append(self, key: str, case: Mapping[str, Any], outcome: Outcome) -> None:
        """Write one line, and to the disk."""
        line = json.dumps({"key": key, "case": case, "outcome": as_json(outcome)}) + "\n"
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + line if self._torn else line)
            self._torn = False
            file.flush()
            os.fsync(file.fileno())
            self.known[key] = outcome


def start_journal(out: Path, *, resume: bool) -> Journal:
    """The journal of the folder `out`; without `resume` an earlier one is moved aside and a new one begun."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "outcomes.jsonl"
    if path.exists() and not resume:
        number = next(n for n in range(1, 10**6) if not (out / f"outcomes.{n}.jsonl").exists())
        path.rename(out / f"outcomes.{number}.jsonl")
    return Journal(path)
