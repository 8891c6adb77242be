"""How do calls cross from the lab's process to the engine's? The runner's records as JSON, one line a message.

Tensors do not cross: the engine's process writes a trace on disk, and the lab opens it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import parity.errors
from parity.errors import ParityError, RunnerError
from parity.records import Environment, Lineage, Recipe, as_json
from parity.runner import CapturePlan, Request, RunnerInfo, Schedule


def write_line(message: Mapping[str, Any]) -> bytes:
    """A message as a line; whole numbers stay whole, NaN and inf are refused."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_line(line: bytes) -> dict[str, Any]:
    """The message in a line. Raises RunnerError for one that is none."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise RunnerError(
            place="engine's process",
            expected="a message, a JSON object on a line",
            found=repr(line[:200]),
            next_step="Something else writes to the channel: look at the engine's log.",
        )
    return message


def encode_requests(requests: Sequence[Request]) -> list[dict[str, Any]]:
    return [{"name": r.name, "ids": list(r.ids), "cached": r.cached} for r in requests]


def decode_requests(given: Sequence[Mapping[str, Any]]) -> tuple[Request, ...]:
    return tuple(Request(one["name"], tuple(one["ids"]), one["cached"]) for one in given)


def encode_schedule(schedule: Schedule) -> dict[str, Any]:
    """Chunk and decode; what else a schedule can turn, vLLM cannot, and was refused before."""
    return {"chunk": schedule.chunk, "decode": schedule.decode}


def decode_schedule(given: Mapping[str, Any]) -> Schedule:
    return Schedule(chunk=given["chunk"], decode=given["decode"])


def encode_plan(plan: CapturePlan | None, out: Path | None) -> dict[str, Any] | None:
    """The plan, its trace to be written to `out`."""
    return None if plan is None else {**as_json(plan), "out": None if out is None else str(out)}


def decode_plan(given: Mapping[str, Any] | None) -> CapturePlan | None:
    if given is None:
        return None
    return CapturePlan(
        layers=tuple(given["layers"]),
        stages=tuple(given["stages"]),
        tokens=given["tokens"],
        mode=given["mode"],
        out=None if given["out"] is None else Path(given["out"]),
    )


def encode_info(info: RunnerInfo) -> dict[str, Any]:
    return as_json(info)


def decode_info(given: Mapping[str, Any]) -> RunnerInfo:
    fields = dict(given)
    fields["recipe"] = Recipe(**fields["recipe"])
    fields["lineage"] = Lineage(fields["lineage"]["root"], tuple(fields["lineage"]["conversions"]))
    fields["environment"] = Environment(**fields["environment"])
    fields["stages"] = tuple(fields["stages"])
    for name in ("can", "inner"):
        fields[name] = frozenset(fields[name])
    fields["bound"] = None if fields["bound"] is None else frozenset(fields["bound"])
    fields["variants"] = {op: tuple(paths) for op, paths in fields["variants"].items()}
    return RunnerInfo(**fields)


PARTS = ("place", "expected", "found", "next_step")


def encode_error(error: Exception) -> dict[str, str]:
    """An error as a message; one that is not the lab's becomes a RunnerError with its text."""
    if isinstance(error, ParityError):
        return {"kind": type(error).__name__, **{part: getattr(error, part) for part in PARTS}}
    return {
        "kind": "RunnerError",
        "place": "vLLM",
        "expected": "an answer",
        "found": f"{type(error).__name__}: {error}"[:1000],
        "next_step": "Run vLLM by itself on the same prompt to see its own messages.",
    }


def decode_error(given: Mapping[str, str]) -> ParityError:
    kind = getattr(parity.errors, given["kind"], RunnerError)
    kind = kind if isinstance(kind, type) and issubclass(kind, ParityError) else RunnerError
    return kind(**{part: given[part] for part in PARTS})
