"""What does vLLM compute? Its model as a runner: stages captured in the packed steps of its own scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import torch

from parity.errors import RunnerError
from parity.probes import Recorder
from parity.records import Run
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
from parity.stages import term
from parity.trace import MemoryTrace, Trace, capture_environment, lineage_of
from parity_oracles.stagemap import StageMap, load_map, match_map, sizes_of, slot_rows
from parity_oracles.vllm.batch import Batch, Feeding, Group, Progress, read_batch
from parity_oracles.vllm.effective import effective_hyper, recipe_of
from parity_oracles.vllm.engine import Engine
from parity_oracles.vllm.experts import APART, offers_experts
from parity_oracles.vllm.live import INNER, Live
from parity_oracles.vllm.tap import HEAD, IDS, LOGITS, Step, Tap, Told

CAN = frozenset({"forward", "generate", "chunk"})
GRAFTS = frozenset({"graft"})


class VllmRunner:
    """A model inside vLLM, in this process.

    All requests of a call are given to the engine at once; its scheduler packs them into steps. A row is filed under
    (request, absolute position) by what the engine says of its batch, checked against the ids it was fed.
    `Schedule(chunk=n)` sets the scheduler's limit of a prefill step; `Schedule(decode=n)` feeds the last n ids as the
    engine's own decode steps, its choice replaced by the given id. `Request(cached=n)` has the first n ids computed
    before, unseen, and taken from the prefix cache: those rows are absent, and the run says so (`flags["absent"]`).
    With grafts the requests run one after the other; see parity_oracles.vllm.live.
    """

    def __init__(
        self, folder: str, engine: Engine, *, eager: bool, apart: bool, stage_map: StageMap | None = None
    ) -> None:
        self.folder = folder
        self.engine = engine
        self.on_step: Callable[[str, int, int], None] | None = None
        self._eager = eager
        family = engine.config.model_config.hf_text_config.model_type
        self.map = stage_map or load_map("vllm", family)
        self.hyper = effective_hyper(engine.model, engine.config, self.map.family)
        self._hidden = {} if eager else {s.name: "compiled: no hook fires inside" for _, s in self.map.graph.sites(1)}
        self._hidden.pop("logits", None)
        if not apart:
            self._hidden["moe.down"] = "option experts_apart is off"
        found = match_map(self.map, self._offered(), layers=self.hyper["layers"])
        self.tap = Tap(engine.model, found, sizes_of(self.hyper))
        self._made = 0
        self._closed = False

    def _offered(self) -> list[str]:
        names = [HEAD]
        for name, module in self.engine.model.named_modules():
            names += [name, *(f"{name}.{seam}" for seam in offers_experts(module))]
        return names

    @cached_property
    def sites(self) -> tuple[tuple[int | None, str], ...]:
        """What this engine can show."""
        return tuple(site for site in self.map.sites(self.hyper["layers"]) if site[1] not in self._hidden)

    @property
    def unobservable(self) -> dict[str, str]:
        """Stages of the family that this engine does not show, with the reason."""
        return {**self.map.unobservable, **{s: why for s, why in self._hidden.items() if s in self._stage_names}}

    @property
    def _stage_names(self) -> tuple[str, ...]:
        return tuple(stage.name for _, stage in self.map.graph.sites(1))

    @cached_property
    def _info(self) -> RunnerInfo:
        device = str(next(self.engine.model.parameters()).device)
        shown = {stage for _, stage in self.sites}
        return RunnerInfo(
            name="vllm",
            family=self.map.family,
            layers=self.hyper["layers"],
            hyper=self.hyper,
            recipe=recipe_of(self.engine.config),
            lineage=lineage_of(self.folder),
            environment=capture_environment(device=device),
            stages=tuple(name for name in self._stage_names if name in shown),
            can=CAN | GRAFTS if self._eager else CAN,
            inner=frozenset(INNER) & shown if self._eager else frozenset(shown),
            sampler={"greedy": True},
        )

    def describe(self) -> RunnerInfo:
        """Family, hyper-parameters as its modules hold them, recipe, lineage, what can be seen, and what of it cannot
        be replaced (`inner`)."""
        return self._info

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
    ) -> Trace:
        """Run the requests together and return what was captured: nothing when `capture` is None, but for the logits
        when there are grafts.

        Raises UsageError for ids outside the vocabulary or too many of them, RunnerError for what `can` does not hold
        and for a prefix that the engine did not take from its cache as asked, ProbeError for a declared tensor that did
        not arrive.
        """
        self._check(requests, schedule, graft)
        feeding = Feeding(
            tuple(request.ids for request in requests), tuple(len(r.ids) - schedule.decode for r in requests)
        )
        self._fill_cache(requests)
        run = self.run_of(requests, schedule)
        if capture is None and not graft:
            self._feed(requests, feeding, schedule, None, frozenset(), live=False)
            return MemoryTrace(run, (), {})
        recorder = Recorder(capture or CapturePlan(stages=("logits",)), run, graft)
        with recorder:
            asked = {(one.layer, one.stage) for one in graft}
            read = {site for one in graft if not isinstance(one, Graft) for site in one.needs}
            wanted = frozenset(recorder.run.declared) | asked | read
            self._feed(requests, feeding, schedule, recorder, wanted, live=bool(graft))
        return MemoryTrace(run, (), {}) if capture is not None and capture.mode == "stats" else recorder.trace()

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Any = None,
    ) -> Generation:
        """The engine's own greedy continuation; end-of-text ids do not stop it. With grafts every step is a run of its
        own over all ids so far, and the choice is the lab's: the largest logit, ties to the lower id."""
        self._check([request], schedule, graft, max_new_tokens)
        if sampling is not None and not sampling.greedy:
            raise _cannot("greedy decoding", repr(sampling), "Leave sampling out.")
        if schedule.decode or request.cached:
            raise _cannot("a plain prompt", f"decode={schedule.decode}, cached={request.cached}", "Leave them out.")
        if not max_new_tokens:
            return Generation((), sampler={"greedy": True})
        if graft:
            return self._generate_grafted(request, max_new_tokens, schedule, graft)
        with self.engine.chunked(schedule.chunk):
            self._add(request.ids, max_new_tokens)
            answers = self._drain("generate", max_new_tokens)
        (answer,) = answers.values()
        return Generation(tuple(answer.outputs[0].token_ids), None, {"greedy": True})

    def _generate_grafted(
        self, request: Request, new: int, schedule: Schedule, graft: Sequence[Graft | ComputedGraft]
    ) -> Generation:
        made: list[int] = []
        for step in range(new):
            fed = Request(request.name, (*request.ids, *made))
            trace = self.forward([fed], schedule=Schedule(chunk=schedule.chunk, decode=step), graft=graft)
            last = trace.tensor(trace.select(stage="logits")[-1])[-1]
            made.append(int(last.argmax()))
        return Generation(tuple(made), None, {"greedy": True})

    def close(self) -> None:
        """End the engine; nothing where it has been ended."""
        if not self._closed:
            self._closed = True
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scale_parameter(self, name: str, index: int, factor: float) -> None:
        """Multiply entry `index` of the first axis of a parameter as the engine holds it, in place: a planted fault.

        Raises RunnerError for a parameter or an entry that is not there.
        """
        parameters = dict(self.engine.model.named_parameters())
        if name not in parameters or not 0 <= index < len(parameters[name]):
            near = [one for one in parameters if name.rpartition(".")[2] in one][:6]
            raise _cannot(f"entry {index} of a parameter", repr(name), f"Parameters of that kind: {', '.join(near)}.")
        with torch.no_grad():
            parameters[name][index] *= factor

    def _feed(
        self,
        requests: Sequence[Request],
        feeding: Feeding,
        schedule: Schedule,
        recorder: Recorder | None,
        wanted: frozenset[tuple[int | None, str]],
        *,
        live: bool,
    ) -> None:
        known: dict[str, int] = {}
        progress = Progress(feeding)
        grafting = Live(recorder, progress, feeding) if live and recorder is not None else None
        with self.engine.packed() as packed, self.engine.chunked(schedule.chunk):

            def batch(positions: torch.Tensor, ids: torch.Tensor | None) -> Batch:
                now = packed()
                by_engine = {name: known[_asked_name(name)] for name in now.names if _asked_name(name) in known}
                found = read_batch(now.names, now.counts, positions, ids, known=by_engine, feeding=feeding)
                if grafting is not None:
                    grafting.begin(found)
                return found

            def force(batch: Batch, row: int) -> int | None:
                request, position = int(batch.rows.request[row]), int(batch.rows.position[row])
                ids = feeding.requests[request]
                inside = feeding.prompts[request] - 1 <= position < len(ids) - 1
                return ids[position + 1] if inside else None

            def done(step: Step) -> None:
                for group in [grafting.group] if grafting is not None else progress.groups(step.batch):
                    _check_chunk(group, step.batch, schedule.chunk)
                    if recorder is not None:
                        self.record(recorder, step, group, feeding, grafting)

            told = Told(batch, done, force, None if grafting is None else grafting.show)
            with self._aborting(known), self.tap.installed(told, self._needed(wanted)):
                answers, total = {}, sum(len(r.ids) for r in requests)
                for number, (request, prompt) in enumerate(zip(requests, feeding.prompts, strict=True)):
                    name = self._add(request.ids[:prompt], schedule.decode + 1, prompt_logits=not request.cached)
                    known[name] = number
                    if live:
                        answers |= self._drain("forward", total)
                answers |= self._drain("forward", total)
            for name, number in known.items():
                _check_cached(requests[number], answers[name], progress.first_rows().get(number))

    @contextmanager
    def _aborting(self, known: Mapping[str, int]) -> Iterator[None]:
        """An error inside a step leaves its requests in the engine, where the next run would meet them."""
        try:
            yield
        except BaseException:
            self.engine.abort(list(known))
            raise

    def _needed(self, wanted: frozenset[tuple[int | None, str]]) -> frozenset[tuple[int | None, str]]:
        """`wanted`, and the ids of every layer of which expert rows are wanted: they say whose rows those are."""
        return wanted | {(layer, IDS) for layer, stage in wanted if term(stage).axes[0] == "R"}

    def record(self, recorder: Recorder, step: Step, group: Group, feeding: Feeding, live: Live | None) -> None:
        """Hand a group of rows of a finished step to the recorder; with `live`, what it has not been shown yet."""
        rows = step.batch.rows.take(group.index)
        probe = None if live is None else live.probe
        if probe is None:
            probe = recorder.step(
                phase=group.phase, step=group.step, chunk=group.chunk, rows=rows, last_position=feeding.last_position
            )
        index = torch.from_numpy(group.index)
        for site in recorder.run.declared:
            layer, stage = site
            if site == LOGITS:
                seen = [row for row in group.index.tolist() if row in step.logits]
                width = self.hyper["vocab"]
                table = [step.logits[row][:width] for row in seen]
                shown = torch.stack(table) if table else torch.empty(0, width)
                at = {row: n for n, row in enumerate(group.index.tolist())}
                probe(stage, shown, layer, rows=rows.take(_indices([at[row] for row in seen])), replaceable=False)
            elif site in step.tensors and live is None:
                tensor = step.tensors[site]
                shown = tensor[index.to(tensor.device)]
                if term(stage).axes[0] == "R":
                    ids = step.tensors[layer, IDS][index.to(tensor.device)]
                    probe(stage, shown.flatten(0, 1), layer, rows=slot_rows(rows, ids), variant=APART)
                else:
                    probe(stage, shown, layer)

    def _fill_cache(self, requests: Sequence[Request]) -> None:
        """Let the engine compute the prefixes that are to be in its cache, and nothing else be there."""
        if any(request.cached for request in requests):
            self.engine.forget_prefixes()
            for request in requests:
                if request.cached:
                    self._add(request.ids[: request.cached], 1)
            self._drain("prefix", 0)

    def _add(self, ids: Sequence[int], new: int, *, prompt_logits: bool = False) -> str:
        """Hand a request to the engine; its name."""
        name = f"parity{self._made}"
        self._made += 1
        self.engine.add(name, ids, new=new, prompt_logits=prompt_logits)
        return name

    def _drain(self, what: str, total: int) -> dict[str, Any]:
        """Run the engine until nothing is left to do; its answers by request."""
        found, done = {}, 0
        while (answers := self.engine.step()) is not None:
            found |= {_asked_name(answer.request_id): answer for answer in answers if answer.finished}
            done += 1
            if self.on_step is not None:
                self.on_step(what, done, max(total, done))
        return found

    def _check(
        self, requests: Sequence[Request], schedule: Schedule, graft: Sequence[Any], new_tokens: int = 0
    ) -> None:
        # The engine samples one token after the last id, which needs a position too.
        most = self.hyper["max_positions"] - 1
        check_requests(requests, schedule, vocab=self.hyper["vocab"], max_positions=most, new_tokens=new_tokens)
        check_schedule(schedule, requests, can=CAN, runner="vllm")
        if graft and not self._eager:
            raise _cannot("an ability among " + ", ".join(sorted(CAN)), "a graft", "Leave enforce_eager on.")
        inside = sorted({one.stage for one in graft} & (set(INNER) | set(self.unobservable)))
        if inside:
            why = INNER.get(inside[0]) or self.unobservable[inside[0]]
            raise _cannot("stages that can be replaced", f"a graft at {inside[0]}: {why}", "Graft at what reads it.")
        if graft and any(request.cached for request in requests):
            raise _cannot("requests without a cached prefix", "a graft beside one", "Leave cached out.")
        caching = bool(self.engine.config.cache_config.enable_prefix_caching)
        for request in requests:
            if request.cached and (not caching or request.cached >= len(request.ids) - schedule.decode):
                found = f"cached={request.cached} of {len(request.ids)} ids, prefix_caching={caching}"
                raise _cannot("prefix caching on, and less than the prompt cached", found, "Correct the request.")

    def run_of(
        self, requests: Sequence[Request], schedule: Schedule, *, absent: Mapping[str, Mapping[str, int]] | None = None
    ) -> Run:
        """The run as its trace states it. absent: rows by request that it does not show; by default a cached prefix."""
        info, config = self.describe(), self.engine.config
        if absent is None:
            absent = {
                r.name: {"*": r.cached, "logits": len(r.ids) - schedule.decode - 1} for r in requests if r.cached
            }  # fmt: skip
        flags = {
            "runner": "vllm", "vllm": self.engine.version, "model_runner": self.engine.runner_kind,
            "chunk": schedule.chunk, "decode": schedule.decode, "enforce_eager": self._eager,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "prefix_caching": bool(config.cache_config.enable_prefix_caching),
            "block_size": config.cache_config.block_size, "unobservable": self.unobservable,
            **({"absent": absent} if absent else {}),
        }  # fmt: skip
        return Run(
            family=info.family,
            model=self.folder,
            layers=info.layers,
            request_names=tuple(request.name for request in requests),
            requests=tuple(tuple(request.ids) for request in requests),
            recipe=info.recipe,
            lineage=info.lineage,
            environment=info.environment,
            declared=self.sites,
            hyper=info.hyper,
            flags=flags,
        )


def _asked_name(name: str) -> str:
    """The name that a request was given: vLLM adds `-` and random letters to it."""
    return name.partition("-")[0]


def _indices(rows: list[int]) -> Any:
    return torch.tensor(rows, dtype=torch.int64).numpy()


def _check_chunk(group: Group, batch: Batch, chunk: int | None) -> None:
    longest = max(segment.stop - segment.first for segment in batch.segments)
    if chunk is not None and group.phase == "prefill" and longest > chunk:
        raise _cannot(f"chunks of at most {chunk}", f"one of {longest} rows", "This version ignores the chunk size.")


def _check_cached(request: Request, answer: Any, first: int | None) -> None:
    if request.cached != (first or 0):
        raise _cannot(
            f"the first {request.cached} ids of request {request.name} from the prefix cache",
            f"{first or 0} (vLLM counts {answer.num_cached_tokens} cached tokens)",
            "Only whole blocks are cached, and never the last token of a prompt: see the option block_size.",
        )


def _cannot(expected: str, found: str, next_step: str) -> RunnerError:
    return RunnerError(place="runner vllm", expected=expected, found=found, next_step=next_step)
