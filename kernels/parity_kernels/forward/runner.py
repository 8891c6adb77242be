"""The shipped Triton engine as a runner: loads a model folder, runs requests, generates, shows its stages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from parity.audit.tensors import BindingReport
from parity.errors import RunnerError, UsageError
from parity.faults import Fault, named_fault
from parity.preview import RunnerPreview
from parity.probes import OFF, Recorder, open_recorder
from parity.records import Recipe, Run, as_json
from parity.runner import (
    CapturePlan,
    ComputedGraft,
    Generation,
    Graft,
    Relabel,
    Request,
    RunnerInfo,
    Schedule,
    check_requests,
    check_schedule,
)
from parity.sampling import Sampling, require_ids
from parity.stages import QWEN3_MOE
from parity.trace import MemoryTrace, Trace, capture_environment, lineage_of
from parity_kernels.backend import default_device, interpreted
from parity_kernels.backend.selftest import verify_interpreter
from parity_kernels.forward.arena import Arena, poisoned_memory
from parity_kernels.forward.batch import Step, pack, plan_steps
from parity_kernels.forward.cache import KVCache
from parity_kernels.forward.chat import Chat
from parity_kernels.forward.config import ModelConfig, read_config
from parity_kernels.forward.files import Shards
from parity_kernels.forward.inventory import check_inventory
from parity_kernels.forward.plant import plant, require_fit
from parity_kernels.forward.preview import preview
from parity_kernels.forward.qwen3_moe import Qwen3Moe
from parity_kernels.forward.reading import Reading
from parity_kernels.forward.relabel import relabel_weights
from parity_kernels.forward.sampling import Sampling as InstanceSampling
from parity_kernels.forward.tokenizer import Tokenizer
from parity_kernels.forward.variants import chosen, variants
from parity_kernels.forward.weights import Weights, load_weights

RECIPES = {
    "bf16": Recipe(
        name="bf16", weights="bf16", activations="bf16", compute="bf16", accumulate="fp32", kv_cache="bf16",
        residual="bf16",
    ),
    "fp8_block": Recipe(
        name="fp8_block", weights="e4m3 128x128", activations="e4m3 1x128 dynamic", compute="e4m3", accumulate="fp32",
        kv_cache="bf16", residual="bf16",
    ),
}  # fmt: skip


CAN = frozenset(
    {"forward", "generate", "sample", "graft", "chunk", "slots", "padding", "poison", "relabel", "variant", "bindings"}
)

AUDITED_IDS = 5
"""Ids of the run that shows what is read: four to prefill and one to decode, so that both kinds of attention run."""

TAIL_POSITIONS = 128
"""Cache positions behind a poisoned run's last one: the widest key tile of the attention kernels."""

_ROWS = ("repeat", "history", "poison", "probes", "chunks", "batch", "padding", "causality")
PROMISES = {name: 0.0 for name in (*_ROWS, "decode")}
"""What this engine promises bit for bit, interpreted: every op computes a row by itself, in an order that does not
depend on what else is in the step. tests/forward and tests/invariance hold it to that."""

PROMISES_COMPILED = {name: 0.0 for name in _ROWS}
"""Compiled, prefill and decode attention sum over key tiles in different orders."""


class TritonRunner:
    """One engine instance. `engine.ops` and `engine.launches` are this instance's own tables.

    on_step: when set, hears what is being done, how many layers are done and how many there are.
    """

    on_step: Callable[[str, int, int], None] | None = None

    def __init__(self, folder: Path, *, recipe: str | None = None, fault: Fault | None = None) -> None:
        if interpreted():
            verify_interpreter()
        self.folder = folder
        self.config = read_config(folder)
        self.recipe = RECIPES[_recipe_name(self.config, recipe)]
        self.tokenizer = Tokenizer.beside(folder, vocab=self.config.vocab)
        if fault is not None:
            require_fit(fault, self.config, self.recipe.name)
            self.config = self.config.changed(fault.config or {})
        self.lineage = lineage_of(folder)
        self.device = default_device()
        change = None if fault is None or fault.weights is None else fault.change_tensor
        weights = load_weights(folder, self.config, recipe=self.recipe.name, device=self.device, change=change)
        self.engine = Qwen3Moe(self.config, weights, Arena(self.device))
        self.chats = Chat(folder, self.tokenizer, None if fault is None else fault.prompt)
        self.sampling = InstanceSampling.beside(
            folder,
            vocab=self.config.vocab,
            settings={} if fault is None else fault.engine,
            sampler=None if fault is None else fault.sampler,
        )
        self._relabelling: tuple[Relabel, Weights] | None = None
        self._poisoned = 0
        if fault is not None:
            plant(fault, self.engine)

    def describe(self) -> RunnerInfo:
        return RunnerInfo(
            name="triton",
            family=self.config.family,
            layers=self.config.layers,
            hyper=self.config.hyper(),
            recipe=self.recipe,
            lineage=self.lineage,
            environment=capture_environment(device=str(self.device), interpreted=interpreted()),
            stages=tuple(dict.fromkeys(stage.name for _, stage in QWEN3_MOE.sites(1))),
            can=CAN | (frozenset({"chat"}) if self.chats.ready else frozenset()),
            variants={op: tuple(paths) for op, paths in variants().items()},
            promises=PROMISES if interpreted() else PROMISES_COMPILED,
            inner=frozenset({"attn.q_norm", "attn.k_norm", "moe.router_logits"}),
            bound=self.engine.weights.bound,
            sampler=self.sampling.describe(),
        )

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
        variant: Mapping[str, str] | None = None,
    ) -> Trace:
        """Run the requests teacher-forced and return what the probes saw; logits are computed for every row.

        variant: path to take for an op, by op name, in this run alone.
        """
        requests = self.chats.fed(requests)
        run = self._run(requests, schedule, variant or {})
        recorder = open_recorder(run, capture, graft)
        own = self.engine.ops
        self.engine.ops = chosen(own, variant or {})
        try:
            with recorder:
                self._forced(requests, schedule, recorder)
        finally:
            self.engine.ops = own
        kept = capture is not None and capture.mode != "stats"
        trace = recorder.trace() if isinstance(recorder, Recorder) and kept else MemoryTrace(run, (), {})
        if isinstance(trace, MemoryTrace) and schedule.poison is not None:
            # What a trace claims of the run must be what happened: filled, not asked for.
            trace.run = replace(trace.run, flags={**trace.run.flags, "poisoned_bytes": self._poisoned})
        return trace

    def logits(
        self, requests: Sequence[Request], *, schedule: Schedule = Schedule(), probes: Any = OFF
    ) -> torch.Tensor:
        """Logits of every row fed, [rows of all steps, V] fp32, in the order in which the steps held them."""
        return self._forced(self.chats.fed(requests), schedule, probes)

    def _forced(self, requests: Sequence[Request], schedule: Schedule, probes: Any) -> torch.Tensor:
        self._check(requests, schedule)
        own = self.engine.weights
        if schedule.relabel is not None:
            self.engine.weights = self._relabelled(schedule.relabel)
        try:
            with poisoned_memory(self.engine.arena, schedule.poison) as filled:
                logits = self._logits(requests, schedule, probes)
                self._poisoned = filled()
        finally:
            self.engine.weights = own
        return logits

    def _logits(self, requests: Sequence[Request], schedule: Schedule, probes: Any) -> torch.Tensor:
        longest = max((len(request.ids) for request in requests), default=0)
        cache = self._cache(len(requests), longest, schedule)
        out = []
        steps = list(plan_steps(requests, schedule, self.device))
        self._report("forward", len(steps))
        for step in steps:
            out.append(self._probed(step, cache, probes, all_logits=True).clone())
        return torch.cat(out) if out else torch.empty((0, self.config.vocab))

    def bindings(self) -> BindingReport:
        """What the operations read and were told in a short run of its own: a prefill, and one decode step."""
        engine, own = self.engine, self.engine.ops
        reading = Reading(lambda: (engine.role, engine.layer))
        length = min(AUDITED_IDS, self.config.max_positions)
        request = Request("audit", tuple(number % self.config.vocab for number in range(length)))
        schedule = Schedule(decode=min(1, length - 1))
        engine.ops = {name: reading.around(name, op) for name, op in own.items()}
        engine.listener = reading.kernel
        try:
            self.logits([request], schedule=schedule)
        finally:
            engine.ops, engine.listener = own, None
        return reading.report(steps=1 + schedule.decode, bound=engine.weights.bound)

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Sampling | None = None,
    ) -> Generation:
        """Continue one request, greedily unless `sampling` asks otherwise; probes set by the environment see it.

        What the instance itself fixes holds over what is asked, and `Generation.sampler` says what was in force.
        """
        if sampling is not None:
            require_ids(sampling, self.config.vocab)
        (request,) = self.chats.fed([request])
        self._check([request], schedule, max_new_tokens)
        check_schedule(schedule, [request], can=frozenset(), runner="triton, generating")
        cache = self._cache(1, len(request.ids) + max_new_tokens)
        run = self._run([request], schedule)
        with open_recorder(run, None, graft) as probes:
            ids = list(request.ids)
            logits, shown = None, []
            steps = list(plan_steps([request], schedule, self.device))
            self._report("generate", len(steps) + max_new_tokens - 1)
            for step in steps:
                logits = self._probed(step, cache, probes)
            for number in range(max_new_tokens):
                assert logits is not None  # _check refuses an empty prompt
                shown.append(logits[-1].cpu().clone())
                ids.append(self.sampling.choose(logits[-1], ids, prompt=len(request.ids), asked=sampling))
                if number + 1 == max_new_tokens:
                    break
                last = len(ids) - 1
                probes.extend(0, ids[last:])
                step = pack(
                    [Request(request.name, tuple(ids))], [(0, last, last + 1)], phase="decode",
                    index=schedule.decode + number + 1, chunk=0, last=(len(request.ids) - 1,), device=self.device,
                )  # fmt: skip
                logits = self._probed(step, cache, probes)
        new = tuple(ids[len(request.ids) :])
        text = self.tokenizer.decode(new) if self.tokenizer else None
        return Generation(new, text, self.sampling.describe(sampling), torch.stack(shown) if shown else None)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        name: str = "chat",
        tools: Sequence[Mapping[str, Any]] = (),
        **options: Any,
    ) -> Request:
        """The request that this engine makes of a conversation, by the chat template beside the weights.

        options: as the template takes them (`enable_thinking`). Raises RunnerError, UsageError where it cannot.
        """
        return self.chats.request(messages, name=name, tools=tools, **options)

    def _report(self, what: str, steps: int) -> None:
        """Tell `on_step` of every layer from here on."""
        if self.on_step is None:
            return
        hear, total, done = self.on_step, steps * self.config.layers, itertools.count(1)
        self.engine.on_layer = lambda: hear(what, next(done), total)

    def _probed(self, step: Step, cache: KVCache, probes: Any, *, all_logits: bool = False) -> torch.Tensor:
        probe = probes.step(
            phase=step.phase, step=step.index, chunk=step.chunk, rows=step.rows, last_position=step.last_position
        )
        return self.engine.step(step, cache, probe, all_logits=all_logits)

    def _relabelled(self, relabel: Relabel) -> Weights:
        """The weights under other numbers; the last ones asked for are kept."""
        if self._relabelling is None or self._relabelling[0] != relabel:
            self._relabelling = (relabel, relabel_weights(self.engine.weights, relabel, self.config))
        return self._relabelling[1]

    def _cache(self, slots: int, positions: int, schedule: Schedule = Schedule()) -> KVCache:
        c = self.config
        # Poison lies behind the last position of each slot too, and in a slot that no request has.
        beyond = schedule.padding or (TAIL_POSITIONS if schedule.poison is not None else 0)
        slots = max([slots, *(slot + 1 for slot in schedule.slots)]) + min(beyond, 1)
        positions += beyond
        return KVCache(
            layers=c.layers, slots=max(slots, 1), positions=max(positions, 1), kv_heads=c.kv_heads,
            head_dim=c.head_dim, device=self.device,
        )  # fmt: skip

    def _run(self, requests: Sequence[Request], schedule: Schedule, variant: Mapping[str, str] | None = None) -> Run:
        info = self.describe()
        return Run(
            family=info.family,
            model=self.folder.name,
            layers=info.layers,
            request_names=tuple(request.name for request in requests),
            requests=tuple(request.ids for request in requests),
            recipe=info.recipe,
            lineage=info.lineage,
            environment=info.environment,
            declared=tuple((layer, stage.name) for layer, stage in QWEN3_MOE.sites(info.layers)),
            hyper=info.hyper,
            flags={
                "chunk": schedule.chunk,
                "decode": schedule.decode,
                "runner": info.name,
                **_knobs(schedule, variant),
            },
        )

    def _check(self, requests: Sequence[Request], schedule: Schedule, new_tokens: int = 0) -> None:
        """Refuse what cannot run before anything is launched."""
        check_requests(
            requests,
            schedule,
            vocab=self.config.vocab,
            max_positions=self.config.max_positions,
            new_tokens=new_tokens,
        )
        check_schedule(schedule, requests, can=self.describe().can, runner="triton")
        for request in requests:
            if request.cached:
                raise RunnerError(
                    place=f"request {request.name}",
                    expected="no cached prefix: this engine keeps no prefix cache between calls",
                    found=f"cached={request.cached}",
                    next_step="Feed the whole request.",
                )


def _recipe_name(config: ModelConfig, asked: str | None) -> str:
    name = asked or config.quantization or "bf16"
    if name not in RECIPES:
        raise UsageError(
            place="engine recipe",
            expected="one of " + ", ".join(RECIPES),
            found=repr(name),
            next_step="Leave it out to take the checkpoint's own.",
        )
    return name


def _knobs(schedule: Schedule, variant: Mapping[str, str] | None) -> dict[str, Any]:
    """What a schedule turns besides feeding, for the record; nothing where nothing is turned."""
    turned = {name: as_json(getattr(schedule, name)) for name in sorted(schedule.turned())}
    return {**turned, "variant": dict(variant)} if variant else turned


def open_runner(model: str, *, recipe: str | None = None, fault: Fault | str | None = None) -> TritonRunner:
    """The engine on the model folder `model`, in the checkpoint's own recipe unless `recipe` names another.

    fault: planted into this instance alone: the fault itself, the name of a shipped one, or `path.py:NAME`; either name
        may end in `@SEED` for another instance of it.
    """
    planted = None if fault is None else named_fault(fault, hyper=read_config(Path(model)).hyper())
    runner = TritonRunner(Path(model), recipe=recipe, fault=planted)
    return runner if planted is None or planted.runner is None else planted.runner(runner)


def preview_runner(model: str, *, recipe: str | None = None, fault: Fault | str | None = None) -> RunnerPreview:
    """What `open_runner` would give, from config.json and the headers; the folder is checked as it is there."""
    folder = Path(model)
    config = read_config(folder)
    name = _recipe_name(config, recipe)
    planted = None if fault is None else named_fault(fault, hyper=config.hyper())
    if planted is not None:
        config = config.changed(planted.config or {})
    shards = Shards(folder)
    check_inventory(shards, config)
    return preview(config, shards, recipe=name, device=str(default_device()), interpreted=interpreted())
