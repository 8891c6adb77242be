"""What do the rungs share in an interactive session? The same bench, its runs read back where they were made before."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from parity.climb.bench import Bench
from parity.errors import RunnerError
from parity.lab.identity import engine_identity
from parity.lab.remembered import Remembered
from parity.runner import CapturePlan
from parity.trace import DiskTrace, Trace


class RememberingBench(Bench):
    """A bench whose engine's observations come from the cache. remembered: the engine with its memory, None for a
    trace. What must run to mean anything (invariances, proofs) goes to the engine itself.
    """

    remembered: Remembered | None = None
    cache: Path = Path()

    @cached_property
    def trace(self) -> Trace:
        if self.remembered is None:
            return super().trace
        trace = self.own.forward([self.case.request], schedule=self.case.schedule, capture=CapturePlan())
        if isinstance(trace, DiskTrace) and not self.trace_folder.exists():
            self.trace_folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # where there are no links, the folder of the case has no copy
                self.trace_folder.symlink_to(os.path.relpath(trace.folder, self.trace_folder.parent))
        return trace

    @cached_property
    def second(self) -> Trace:
        request, _ = self.case.second_request()
        return self.own.forward([request], capture=CapturePlan())

    @cached_property
    def recipe_runner(self) -> Any | None:
        if self.opened_emulation is None:
            return None
        opening, runner = self.opened_emulation
        who = engine_identity(runner, spec=opening.spec, options=opening.options)
        return Remembered(runner, who, self.cache)

    @property
    def own(self) -> Remembered:
        """The engine with its memory; RunnerError where a trace stands for it."""
        if self.remembered is None:
            raise RunnerError(
                place=f"engine {self.case.sut}",
                expected="an engine that runs",
                found="a trace on disk",
                next_step="Name a runner as `sut`.",
            )
        return self.remembered
