"""What do runners share that feed one request after the other? Checking, feeding, recording, greedy decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from parity.errors import RunnerError
from parity.probes import Recorder
from parity.records import Lineage, Recipe, Rows, Run
from parity.runner import (
    CapturePlan,
    ComputedGraft,
    Generation,
    Graft,
    Request,
    RunnerInfo,
    Schedule,
    check_requests,
    check_schedule,
)
from parity.sampling import Sampling, require_ids
from parity.stages import Family
from parity.stages import family as family_named
from parity.trace import MemoryTrace, Trace, capture_environment
from parity_oracles.checkpoint import Hyper, TextDecoder
from parity_oracles.sampling import choose


@dataclass(frozen=True)
class Feed:
    """One step: positions start..stop-1 of one request."""

    request: int
    phase: str
    step: int
    chunk: int
    start: int
    stop: int

    @property
    def rows(self) -> Rows:
        """Its token rows."""
        count = self.stop - self.start
        return Rows(np.full(count, self.request, np.int32), np.arange(self.start, self.stop, dtype=np.int64))


def feeds(request: int, length: int, schedule: Schedule) -> Iterator[Feed]:
    """The steps of one request: prefill, in chunks where the schedule says so, then its last ids one by one."""
    prompt = length - schedule.decode
    chunk = schedule.chunk or prompt
    for number, start in enumerate(range(0, prompt, chunk)):
        yield Feed(request, "prefill", 0, number, start, min(start + chunk, prompt))
    for step in range(1, schedule.decode + 1):
        yield Feed(request, "decode", step, 0, prompt + step - 1, prompt + step)


class Feeder(ABC):
    """A runner that feeds its requests one after the other, each in a cache of its own, without padding.

    A subclass gives `can`, `new_cache`, `step` and, where it needs one, `tapped`. model: the name in its traces.
    `on_step`, when set, is told ("forward" or "generate", steps done, steps in all).
    """

    name: str
    can: frozenset[str]

    def __init__(
        self, model: str, hyper: Hyper, recipe: Recipe, lineage: Lineage, *, decoder: TextDecoder | None = None
    ) -> None:
        self.model_name = model
        self.hyper = hyper
        self.recipe = recipe
        self.lineage = lineage
        self.decoder = decoder
        self.family: Family = family_named(hyper.family)
        self.on_step: Callable[[str, int, int], None] | None = None

    @abstractmethod
    def new_cache(self) -> Any:
        """An empty KV cache for one request."""

    @abstractmethod
    def step(
        self, ids: torch.Tensor, start: int, cache: Any, probe: Any, rows: Rows, *, last_only: bool
    ) -> torch.Tensor:
        """Feed [T] ids at positions start.. and return their logits, [T, V], or [1, V] of the last when `last_only`.

        probe: what the stages go through; None for a pass without taps.
        """

    def tapped(self) -> AbstractContextManager[Any]:
        """Within it, `step` passes every stage through its probe."""
        return nullcontext()

    def describe(self) -> RunnerInfo:
        """Family, effective hyper-parameters, recipe, lineage, stages and abilities."""
        return RunnerInfo(
            name=self.name,
            family=self.family.name,
            layers=self.hyper.layers,
            hyper=self.effective(),
            recipe=self.recipe,
            lineage=self.lineage,
            environment=capture_environment(device="cpu", interpreted=False),
            stages=tuple(stage.name for _, stage in self.family.sites(1)),
            can=self.can,
        )

    def effective(self) -> dict[str, Any]:
        """The hyper-parameters in force."""
        return self.hyper.implied()

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
    ) -> Trace:
        """Run the requests teacher-forced and return what the probes saw: nothing when `capture` is None, but for the
        logits when there are grafts. Raises UsageError for ids outside the vocabulary or too few of them, RunnerError
        for what `can` does not hold."""
        self._check(requests, schedule)
        run = self._run(requests, schedule)
        if capture is None and not graft:
            self._feed_all(requests, schedule, None)
            return MemoryTrace(run, (), {})
        recorder = Recorder(capture or CapturePlan(stages=("logits",)), run, graft)
        with self.tapped(), recorder:
            self._feed_all(requests, schedule, recorder)
        if capture is not None and capture.mode == "stats":
            return MemoryTrace(run, (), {})
        return recorder.trace()

    def logits(self, requests: Sequence[Request], *, schedule: Schedule = Schedule()) -> torch.Tensor:
        """Logits without taps, [rows of all steps, V], request after request."""
        self._check(requests, schedule)
        parts = self._feed_all(requests, schedule, None)
        return torch.cat(parts) if parts else torch.empty(0, self.hyper.vocab)

    @torch.no_grad()
    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Sampling | None = None,
    ) -> Generation:
        """Continue one request, without taps but those of the grafts; end-of-text ids do not stop it.

        sampling: None takes the largest logit, ties to the lower id.
        """
        sampling = sampling or Sampling()
        require_ids(sampling, self.hyper.vocab)
        self._check([request], schedule, max_new_tokens)
        if not graft:
            return self._generate(request, max_new_tokens, schedule, None, sampling)
        recorder = Recorder(None, self._run([request], schedule), graft)
        with self.tapped(), recorder:
            return self._generate(request, max_new_tokens, schedule, recorder, sampling)

    @torch.no_grad()
    def generate_watched(
        self, request: Request, *, max_new_tokens: int, capture: CapturePlan, sampling: Sampling | None = None
    ) -> tuple[Generation, Trace]:
        """`generate`, and the trace of `forward` on the same ids, in one go: the steps are the same ones."""
        sampling = sampling or Sampling()
        require_ids(sampling, self.hyper.vocab)
        self._check([request], Schedule(), max_new_tokens)
        recorder = Recorder(capture, self._run([request], Schedule()))
        with self.tapped(), recorder:
            new = self._generate(request, max_new_tokens, Schedule(), recorder, sampling)
        seen = recorder.trace()
        fed = Request(request.name, (*request.ids, *new.ids[:-1]))
        run = replace(self._run([fed], Schedule(decode=len(new.ids) - 1)), declared=seen.run.declared)
        return new, MemoryTrace(run, seen.captures, {c.number: seen.tensor(c) for c in seen.captures})

    def _generate(
        self, request: Request, max_new_tokens: int, schedule: Schedule, recorder: Recorder | None, sampling: Sampling
    ) -> Generation:
        last = (len(request.ids) - schedule.decode - 1,)
        cache, logits = self.new_cache(), None
        prompt = list(feeds(0, len(request.ids), schedule))
        total = len(prompt) + max(max_new_tokens - 1, 0)

        def feed_one(feed: Feed, ids: Sequence[int], number: int) -> torch.Tensor:
            probe = self._probe(feed, recorder, last)
            logits = self.step(torch.tensor(ids), feed.start, cache, probe, feed.rows, last_only=recorder is None)
            self._tell("generate", number, total)
            return logits

        for number, feed in enumerate(prompt, 1):
            logits = feed_one(feed, request.ids[feed.start : feed.stop], number)
        new: list[int] = []
        while logits is not None and len(new) < max_new_tokens:
            ids = (*request.ids, *new)
            new.append(self.choose(logits[-1], ids, prompt=len(request.ids), sampling=sampling))
            if len(new) < max_new_tokens:
                at = len(request.ids) + len(new) - 1
                if recorder is not None:
                    recorder.extend(0, new[-1:])
                feed = Feed(0, "decode", schedule.decode + len(new), 0, at, at + 1)
                logits = feed_one(feed, new[-1:], len(prompt) + len(new))
        text = self.decoder.decode(new) if self.decoder else None
        return Generation(tuple(new), text, {"greedy": sampling.greedy, **sampling.settings()})

    def choose(self, logits: torch.Tensor, ids: Sequence[int], *, prompt: int, sampling: Sampling) -> int:
        """The next token after `ids`, of which the first `prompt` were given; logits [V]."""
        return choose(logits, ids, prompt=prompt, sampling=sampling)

    def _probe(self, feed: Feed, recorder: Recorder | None, last: Sequence[int]) -> Any:
        if recorder is None:
            return None
        return recorder.step(phase=feed.phase, step=feed.step, chunk=feed.chunk, rows=feed.rows, last_position=last)

    @torch.no_grad()
    def _feed_all(
        self, requests: Sequence[Request], schedule: Schedule, recorder: Recorder | None
    ) -> list[torch.Tensor]:
        last = [len(request.ids) - schedule.decode - 1 for request in requests]
        steps = [list(feeds(number, len(request.ids), schedule)) for number, request in enumerate(requests)]
        total, done, out = sum(map(len, steps)), 0, []
        for request, plan in zip(requests, steps, strict=True):
            cache = self.new_cache()
            for feed in plan:
                probe = self._probe(feed, recorder, last)
                ids = torch.tensor(request.ids[feed.start : feed.stop])
                out.append(self.step(ids, feed.start, cache, probe, feed.rows, last_only=False))
                done += 1
                self._tell("forward", done, total)
        return out

    def _run(self, requests: Sequence[Request], schedule: Schedule) -> Run:
        info = self.describe()
        return Run(
            family=info.family,
            model=self.model_name,
            layers=info.layers,
            request_names=tuple(request.name for request in requests),
            requests=tuple(tuple(request.ids) for request in requests),
            recipe=info.recipe,
            lineage=info.lineage,
            environment=info.environment,
            declared=tuple((layer, stage.name) for layer, stage in self.family.sites(info.layers)),
            hyper=info.hyper,
            flags={"chunk": schedule.chunk, "decode": schedule.decode, "runner": self.name, **self.flags()},
        )

    def flags(self) -> dict[str, Any]:
        """Settings besides the schedule that change what is computed."""
        return {}

    def _check(self, requests: Sequence[Request], schedule: Schedule, new_tokens: int = 0) -> None:
        check_requests(
            requests,
            schedule,
            vocab=self.hyper.vocab,
            max_positions=self.hyper.max_positions,
            new_tokens=new_tokens,
        )
        check_schedule(schedule, requests, can=self.can, runner=self.name)
        for request in requests:
            if request.cached:
                raise self._cannot("the whole request", f"cached={request.cached}", "Feed the whole request.")
            if schedule.chunk is not None and "chunk" not in self.can and schedule.chunk < len(request.ids):
                found = f"chunk={schedule.chunk} for {len(request.ids)} ids"
                raise self._cannot("the prompt in one piece", found, "Leave chunk out for this oracle.")

    def _cannot(self, expected: str, found: str, next_step: str) -> RunnerError:
        return RunnerError(place=f"runner {self.name}", expected=expected, found=found, next_step=next_step)

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.on_step is not None:
            self.on_step(what, done, total)
