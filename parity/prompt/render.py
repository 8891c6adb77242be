"""What text does a template make of a conversation? Many renderings in one sandboxed child process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.errors import RunnerError

SANDBOX = Path(__file__).with_name("sandbox.py")

WALL_SECONDS = 60
"""For all renderings of one call; the child's own limits are of processor time, which a loaded machine stretches."""


@dataclass(frozen=True)
class Job:
    """One rendering to make. now: the date that `strftime_now` takes for today, ISO format; None for today."""

    template: str
    variables: Mapping[str, Any]
    now: str | None = None


@dataclass(frozen=True)
class Rendering:
    """What came of a Job: the text, or why there is none.

    refused: `limit`, `unsafe`, `syntax` or `template` (the template itself refused, or failed). formats: date formats
    that it asked `strftime_now` for.
    """

    text: str | None
    refused: str | None = None
    message: str = ""
    formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """Which variables a template reads from outside, and the constants that it compares each of them with."""

    reads: tuple[str, ...]
    compared: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def render_jobs(
    jobs: Sequence[Job], *, inspect: Sequence[str] = ()
) -> tuple[tuple[Rendering, ...], tuple[Inspection, ...]]:
    """Render all `jobs` and inspect the templates in `inspect`, in order. A template never runs in this process.

    Raises RunnerError when the child cannot be started or answers nothing.
    """
    asked = {"inspect": list(inspect), "jobs": [vars(job) for job in jobs]}
    said = _answer(json.dumps(asked))
    if said is None:
        # Killed by the kernel, so without an answer: one at a time, to know which.
        if len(jobs) + len(inspect) == 1:
            limit = Rendering(None, "limit", "ended by the system: too much processor time or memory")
            return (limit,) * len(jobs), (Inspection(()),) * len(inspect)
        return _one_by_one(jobs, inspect)
    rendered = tuple(
        Rendering(one.get("text"), one.get("refused"), one.get("message", ""), tuple(one.get("formats", ())))
        for one in said["rendered"]
    )
    inspected = tuple(
        Inspection(tuple(one["reads"]), {name: tuple(values) for name, values in one["compared"].items()})
        for one in said["inspected"]
    )
    return rendered, inspected


def _one_by_one(jobs: Sequence[Job], inspect: Sequence[str]) -> tuple[tuple[Rendering, ...], tuple[Inspection, ...]]:
    rendered: list[Rendering] = []
    bad: dict[str, Rendering] = {}
    for job in jobs:
        if job.template not in bad:
            ((one,), _) = render_jobs([job])
            if one.refused == "limit":
                bad[job.template] = one
            rendered.append(one)
        else:
            rendered.append(bad[job.template])
    inspected = [render_jobs([], inspect=[template])[1][0] for template in inspect]
    return tuple(rendered), tuple(inspected)


def _answer(asked: str) -> dict[str, Any] | None:
    try:
        # -P: the script's own folder is not searched for modules; -E and -s would hide a jinja2 on PYTHONPATH.
        done = subprocess.run(
            [sys.executable, "-P", str(SANDBOX)],
            input=asked.encode(), capture_output=True, timeout=WALL_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        raise _no_child(str(error)) from error
    if done.returncode < 0:
        return None
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise _no_child(done.stderr.decode(errors="replace").strip()[-300:] or "no answer") from error


def _no_child(found: str) -> RunnerError:
    return RunnerError(
        place="sandbox of chat templates",
        expected=f"a Python process with jinja2 ({sys.executable})",
        found=found,
        next_step="Install the package with its dependencies; templates are not run in this process.",
    )
