"""How often was the engine run? A runner, in this process or another, whose calls are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from parity.process_runner import ProcessRunner
from parity.runner import CapturePlan, ComputedGraft, Generation, Graft, Request, RunnerInfo, Schedule, options_of
from parity.sampling import Sampling
from parity.trace import Trace


class Counted:
    """The runner's own methods, abilities beyond the protocol included, with `forwards` and `generations` counted."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.forwards = 0
        self.generations = 0
        self._info: RunnerInfo | None = None

    def describe(self) -> RunnerInfo:
        if self._info is None:
            self._info = self.runner.describe()
        assert self._info is not None
        return self._info

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
        variant: Mapping[str, str] | None = None,
    ) -> Trace:
        self.forwards += 1
        under = options_of(graft=graft, variant=variant)
        return self.runner.forward(requests, schedule=schedule, capture=capture, **under)

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Sampling | None = None,
    ) -> Generation:
        self.generations += 1
        under = options_of(graft=graft, sampling=sampling)
        return self.runner.generate(request, max_new_tokens=max_new_tokens, schedule=schedule, **under)

    def __getattr__(self, name: str) -> Any:
        # What a runner can do beyond the protocol lies in its process: asked there, called there.
        if name.startswith("_") or not isinstance(self.runner, ProcessRunner):
            return getattr(self.runner, name)
        if not self.runner.call(has_method, name):
            raise AttributeError(name)
        return partial(self._remote, name)

    def _remote(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "logits":
            self.forwards += 1
        return self.runner.call(call_method, name, args, kwargs)


def has_method(runner: Any, name: str) -> bool:
    return callable(getattr(runner, name, None))


def call_method(runner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return getattr(runner, name)(*args, **kwargs)
