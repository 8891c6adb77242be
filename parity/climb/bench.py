"""What do the rungs share? The opened engines and every run of theirs that more than one rung needs, run once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parity.climb.case import Case
from parity.climb.counted import Counted
from parity.climb.rung import RungResult
from parity.climb.store import TRACES
from parity.decode import Reference, decode_reference
from parity.decode.noise import is_exact
from parity.errors import RunnerError, TraceError, UsageError
from parity.floor import Floor
from parity.floor.bins import Bin, position_range
from parity.invariance import Subject
from parity.invariance.feeding import DECODE_STEPS
from parity.ladder.calibrate import Opening
from parity.ladder.replay import Replay
from parity.ladder.sweep import oracle_trace
from parity.process_runner import OnStep
from parity.records import Run, Summary
from parity.runner import CapturePlan, Request, RunnerInfo, Schedule, open_runner
from parity.trace import Trace, open_trace, verify_trace

DECODE, CHUNKS = "decode", "chunks"
"""Other ways of feeding the prompt; folders, below `traces`, of the traces made so."""

PROVED_STEPS = 8
"""Decode steps in which a fault of decode alone is proved. Of rows that weigh alike, eight leave seven degrees of
freedom, and Student's quantile of 2.5e-5 is 8.8 there; with three it is 141."""


class Bench:
    """One case on the bench. Everything here is computed when first asked for, and kept.

    sut: None where a trace on disk stands for the engine. oracle: exact. emulation: how the case names it; what is used
    is `emulation`, which opens it in the engine's own recipe. floor: None judges nothing. results: of the rungs done so
    far, by number.
    """

    def __init__(
        self,
        case: Case,
        folder: Path,
        *,
        sut: Counted | None,
        oracle: Any,
        emulation: Opening | None,
        floor: Floor | None,
        on_step: OnStep | None = None,
    ) -> None:
        self.case = case
        self.folder = folder
        self.sut = sut
        self.oracle = oracle
        self.named_emulation = emulation
        self.floor = floor
        self.tell: Callable[[str, int, int], None] = on_step or (lambda *_: None)
        self.results: dict[int, RungResult] = {}
        self.oracle_can: frozenset[str] = oracle.describe().can

    @property
    def engine(self) -> Counted:
        """The engine under test; rungs that need one say so and are not run without."""
        if self.sut is None:
            raise RunnerError(
                place=f"engine {self.case.sut}",
                expected="an engine that runs",
                found="a trace on disk",
                next_step="Name a runner with --sut.",
            )
        return self.sut

    @cached_property
    def run(self) -> Run:
        """What the engine's trace says of its run."""
        return self.trace.run

    @cached_property
    def info(self) -> RunnerInfo:
        """What the engine is; of a trace, as far as the trace tells."""
        if self.sut is not None:
            return self.sut.describe()
        run = self.run
        return RunnerInfo(
            name=str(run.flags.get("runner", "trace")), family=run.family, layers=run.layers, hyper=run.hyper,
            recipe=run.recipe, lineage=run.lineage, environment=run.environment,
            stages=tuple(dict.fromkeys(stage for _, stage in run.declared)), can=frozenset(),
        )  # fmt: skip

    def summary(self, number: int, name: str) -> Summary:
        """A summary as an earlier rung stored it; who asks has seen that the rung ran."""
        stored = self.results[number].summary(name)
        assert stored is not None
        return stored

    @property
    def calls(self) -> tuple[int, int]:
        """Forward passes and generations of the engine so far."""
        return (0, 0) if self.sut is None else (self.sut.forwards, self.sut.generations)

    # The engine's runs.

    @property
    def trace_folder(self) -> Path:
        if self.case.trace_folder:
            return Path(self.case.trace_folder)
        return self._folder_of(self.wrong_in, self.fed[1]) if self.wrong_in else self.folder / TRACES / "sut"

    @cached_property
    def trace(self) -> Trace:
        """Every stage of the engine on the prompt, kept on disk; one from an earlier, whole run is used again."""
        if self.sut is None:
            return open_trace(self.trace_folder)
        if self.trace_folder.exists():
            if _is_whole(self.trace_folder):
                return open_trace(self.trace_folder)
            shutil.rmtree(self.trace_folder)
        self.trace_folder.parent.mkdir(parents=True, exist_ok=True)
        request, schedule = self.fed
        return self.engine.forward([request], schedule=schedule, capture=CapturePlan(out=self.trace_folder))

    @cached_property
    def fed(self) -> tuple[Request, Schedule]:
        """What is traced, and how it is fed: the prompt; where the engine was seen to go wrong in decode alone, by rung
        2 or rung 5, the oracle's next ids behind it as decode steps; and in chunks where rung 5 found it wrong in
        these alone."""
        symptom = self.results.get(2)
        seen = symptom.evidence.get("decoding") if symptom is not None and symptom.ran else None
        starts = isinstance(seen, Mapping) and seen.get("starts") == "decode"
        found = self.with_decode() if starts or self.wrong_in == DECODE else None
        found = self.with_chunks() if self.wrong_in == CHUNKS else found
        return found or (self.case.request, self.case.schedule)

    def with_chunks(self) -> tuple[Request, Schedule] | None:
        """The prompt in three chunks, where rung 3 found that chunks change what is computed; else None."""
        case, broken = self.case, self.results.get(3)
        rungs = [one.rung for one in broken.findings] if broken is not None else []
        if "invariances (chunks)" not in rungs or case.schedule.chunk is not None:
            return None
        return case.request, replace(case.schedule, chunk=-(-len(case.request.ids) // 3))

    def with_decode(self) -> tuple[Request, Schedule] | None:
        """The prompt and decode steps behind it, to past the first that rung 2 saw go wrong; None where the oracle's
        continuation or a floor of decode steps is not known, or the prompt is fed with decode steps of its own."""
        case, symptom = self.case, self.results.get(2)
        seen = symptom.evidence.get("decoding") if symptom is not None and symptom.ran else None
        if not isinstance(seen, Mapping) or case.schedule.decode or self.floor is None:
            return None
        behind, first = tuple(seen["oracle_ids"])[:-1], seen.get("first_out")
        late = first is not None and first >= seen["prompt_ids"]
        # As many as the check of prefill against decode takes, or to past the first that is wrong; more where stages
        # are known to be wrong in them: a proof of what no floor sees further down counts rows.
        least = PROVED_STEPS if self.wrong_in == DECODE else DECODE_STEPS
        steps = min(max(least, first - seen["prompt_ids"] + 2) if late else least, len(behind))
        ids = (*case.request.ids, *behind[:steps])
        last = int(position_range(np.array([len(ids) - 1]))[0])
        judged = [
            self.floor.gate(Bin(mode, "resid.out", 0, "row", "rel_l2", "decode", last, -1)) is not None
            for mode in ("chained", "isolated")
        ]
        if not steps or not all(judged):
            return None
        return replace(case.request, ids=ids), replace(case.schedule, decode=steps)

    @property
    def wrong_in(self) -> str:
        """`decode` or `chunks` where rung 5 found the prompt's stages right, and wrong when it is fed with decode steps
        behind it, or in chunks; else empty."""
        replayed = self.results.get(5)
        return "" if replayed is None else str(replayed.numbers.get("wrong_in", ""))

    def trace_otherwise(self, how: str) -> Trace | None:
        """The engine on the prompt with decode steps behind it (`decode`) or in chunks (`chunks`), beside the trace of
        the prompt; None where that is not asked for, or is how the prompt is fed already."""
        asked = self.with_decode() if how == DECODE else self.with_chunks()
        if self.sut is None or asked is None or asked == self.fed:
            return None
        folder = self._folder_of(how, asked[1])
        shutil.rmtree(folder, ignore_errors=True)
        return self.engine.forward([asked[0]], schedule=asked[1], capture=CapturePlan(out=folder))

    def _folder_of(self, how: str, schedule: Schedule) -> Path:
        return self.folder / TRACES / (f"{how}-{schedule.decode}" if how == DECODE else how)

    def trace_anew(self) -> None:
        """Forget what was computed of the trace: another one takes its place."""
        for name in ("fed", "trace", "run", "request", "second", "truth", "replay", "emulated_trace", "emulated_truth"):
            self.__dict__.pop(name, None)

    @cached_property
    def request(self) -> Request:
        """The prompt as the engine was fed it: of a trace, its own."""
        run = self.run
        return replace(self.case.request, name=run.request_names[0], ids=run.requests[0])

    @cached_property
    def subject(self) -> Subject:
        """The engine as the invariances examine it; the second prompt runs between two runs of the first."""
        second, _ = self.case.second_request()
        fits = len(second.ids) == len(self.case.request.ids)
        return Subject(self.engine, self.case.request, floor=self.floor, other=second if fits else None)

    @cached_property
    def second(self) -> Trace:
        """The engine on the second prompt; the invariances may have run it already.

        Fed whole; with as many of its last ids decoded as what is traced has decode steps behind its prompt; or in
        chunks, where these are what goes wrong.
        """
        decoded = self.fed[1].decode if self.fed[0].ids != self.case.request.ids else 0
        schedule = Schedule(decode=decoded, chunk=self.fed[1].chunk if self.wrong_in == CHUNKS else None)
        if self.subject.other is not None and schedule == Schedule():
            return self.subject.between()[1]
        request, _ = self.case.second_request()
        return self.engine.forward([request], schedule=schedule, capture=CapturePlan())

    @property
    def again(self) -> Trace | None:
        """A second run of what is traced, where the invariances made one in the way that it is fed here."""
        return self.subject.again if self.fed[1] == Schedule() else None

    # What it is held against.

    @cached_property
    def truth(self) -> Trace:
        """The oracle on the same ids, routed as the engine was."""
        return oracle_trace(self.oracle, self.trace)

    @cached_property
    def replay(self) -> Replay:
        """The engine's stages, each alone."""
        return Replay(self.trace, self.oracle)

    @cached_property
    def opened_emulation(self) -> tuple[Opening, Any] | None:
        """The emulation of the engine's recipe, open, and how another process opens the same; None where there is none.

        `recipe:` is opened with the recipe that the engine says it runs; one that says `unknown` is held against the
        checkpoint's own. One opening serves the rungs and the grafts: what is put into the engine carries its recipe's
        noise, and no other's.
        """
        named = self.named_emulation
        if named is None:
            return None
        options, recipe = dict(named.options), self.info.recipe.name
        if named.spec.startswith("recipe:") and recipe != "unknown":
            options.setdefault("recipe", recipe)
        try:
            return Opening(named.spec, options), open_runner(named.spec, **options)
        except UsageError:
            if "recipe" in named.options or "recipe" not in options:
                raise
            return None  # a recipe that nobody emulates

    @property
    def emulation(self) -> Opening | None:
        """How to open the emulation of the engine's recipe; None where there is none."""
        return None if self.opened_emulation is None else self.opened_emulation[0]

    @cached_property
    def recipe_runner(self) -> Any | None:
        """The emulation of the engine's recipe, opened here; None where there is none."""
        return None if self.opened_emulation is None else self.opened_emulation[1]

    @cached_property
    def decoding(self) -> Reference:
        """The oracle's own decoding of the prompt, and the noise around it."""
        return self.decoding_of(self.case.request)

    def decoding_of(self, request: Request) -> Reference:
        """The same of any prompt: the noise is what the recipe's emulation shows there, else the floor's."""
        near = self.recipe_runner
        # Exact arithmetic held against itself has no noise: of an FP32 engine the floor's is taken.
        usable = near is not None and "forward" in near.describe().can and not is_exact(near.describe())
        return decode_reference(
            self.oracle, request, self.case.new_tokens, emulation=near if usable else None,
            floor=None if usable else self.floor,
        )  # fmt: skip

    @cached_property
    def emulated_trace(self) -> Trace | None:
        """The emulation on the same ids: the healthy counterpart of the engine."""
        if self.recipe_runner is None or "forward" not in self.recipe_runner.describe().can:
            return None
        steps = self.run.flags.get("decode", 0)
        return self.recipe_runner.forward([self.request], schedule=Schedule(decode=steps), capture=CapturePlan())

    @cached_property
    def emulated_truth(self) -> Trace | None:
        return None if self.emulated_trace is None else oracle_trace(self.oracle, self.emulated_trace)


def _is_whole(folder: Path) -> bool:
    """Whether a trace was written to its end and lost nothing since; a run that was killed leaves any part of one."""
    try:
        return verify_trace(folder).complete
    except TraceError:
        return False
