"""What does a PyTorch module compute, eager or compiled? A runner over its stage map, probes inside the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from parity.errors import ProbeError
from parity.records import Lineage, Recipe, Rows, Run
from parity.runner import CapturePlan, ComputedGraft, Generation, Graft, Request, RunnerInfo, Schedule
from parity.sampling import Sampling
from parity.trace import Trace, capture_environment
from parity_oracles.feeding import Feeder
from parity_oracles.stagemap import match_map, sizes_of
from parity_oracles.torch_module import ops
from parity_oracles.torch_module.compiling import Compilation
from parity_oracles.torch_module.instrument import Buffers, Instrument, shape_of
from parity_oracles.torch_module.model import GivenHyper, TorchModel
from parity_oracles.torch_module.session import Session

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
CACHE_STEP = 128
"""Cache sizes are multiples of this: a compiled graph is good for one size."""

Put = Callable[[int, torch.Tensor], torch.Tensor]


class TorchRunner(Feeder):
    """A module as engine or oracle, requests one by one; see parity_oracles.torch_module.

    Uncompiled, hooks call the probe. Compiled, the graph writes every stage into static buffers, which are read when a
    step is over, after the replay where it is a CUDA graph; a run with grafts uses a graph that calls back into Python
    at every stage, without CUDA graphs. A run without capture or grafts is the module compiled alone.
    """

    name = "torch"
    knobs: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    knob_needs: Mapping[str, tuple[str, str]] = MappingProxyType({})
    """Both set by whoever opened the module and knows how it can be opened otherwise; see RunnerInfo."""

    def __init__(self, model: TorchModel, compilation: Compilation | None = None) -> None:
        self.model = model
        self.compilation = compilation or Compilation()
        short = SHORT.get(model.dtype, str(model.dtype).removeprefix("torch."))
        hyper: Any = GivenHyper(model.hyper, model.family)
        recipe = model.recipe or Recipe(short, short, short, short, "fp32", short, short)
        super().__init__(model.name, hyper, recipe, model.lineage or _lineage(model), decoder=model.decoder)
        self.can = frozenset({"forward", "generate", "sample", "graft"})
        self.sizes = sizes_of(model.hyper)
        names = [name for name, _ in model.module.named_modules()]
        self.found = match_map(model.stage_map, names, layers=hyper.layers)
        self.instrument = Instrument(model.module, self.found, rewrites=dict(model.rewrites))
        rank = {(at, stage.name): n for n, (at, stage) in enumerate(self.family.sites(hyper.layers))}
        self._order = sorted(self.found.sources, key=lambda s: rank[s.layer, s.stages[0]])
        self._programs: dict[str, Any] = {}
        self._caches: dict[int, Any] = {}
        self._buffers: Buffers | None = None
        self._tokens = 0
        self._grafting = False

    def describe(self) -> RunnerInfo:
        info = super().describe()
        stages = {stage for _, stage in self.model.stage_map.sites(1)}
        sums = [source for source in self.found.sources if len(source.tensor.results) > 1]
        return replace(
            info,
            stages=tuple(stage for stage in info.stages if stage in stages),
            environment=capture_environment(device=self.model.device, interpreted=False),
            inner=frozenset(stage for source in sums for stage in source.stages),
            knobs=self.knobs,
            knob_needs=self.knob_needs,
        )

    def flags(self) -> dict[str, Any]:
        return {**self.compilation.flags(), **self.model.settings}

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
    ) -> Trace:
        """As every Feeder does."""
        self._grafting = bool(graft)
        return super().forward(requests, schedule=schedule, capture=capture, graft=graft)

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Sampling | None = None,
    ) -> Generation:
        """As every Feeder does."""
        self._grafting = bool(graft)
        return super().generate(
            request, max_new_tokens=max_new_tokens, schedule=schedule, graft=graft, sampling=sampling
        )

    def new_cache(self) -> Any:
        """An empty cache, or, for a module without one, the ids fed so far."""
        if self.model.new_cache is None:
            return []
        if self.compilation.backend == "none":
            return self.model.new_cache(0)
        tokens = -(-self._tokens // CACHE_STEP) * CACHE_STEP
        # One cache a size: the graphs are bound to its addresses.
        if tokens not in self._caches:
            self._caches[tokens] = self.model.new_cache(tokens)
        self._caches[tokens].reset()
        return self._caches[tokens]

    def step(
        self, ids: torch.Tensor, start: int, cache: Any, probe: Any, rows: Rows, *, last_only: bool
    ) -> torch.Tensor:
        """See Feeder.step."""
        first = 0
        if self.model.new_cache is None:
            cache += ids.tolist()
            ids, first, start, cache = torch.tensor(cache), start, 0, None
        device = self.model.device
        keep = 1 if last_only else 0
        given = (ids[None].to(device), torch.arange(start, start + len(ids), device=device)[None], cache, keep)
        if probe is None:
            out = self._plain(*given)[0]
        else:
            out = self._probed(given, Session(probe, rows, self.sizes, first=first))[0]
        # What a CUDA graph returns lies where its next replay writes.
        out = out.clone() if self.compilation.cuda_graphs else out
        return (out[-1:] if last_only else out[first:]).cpu()

    def _plain(self, *given: Any) -> torch.Tensor:
        if "plain" not in self._programs:
            self._programs["plain"] = self.compilation.compiled(self._call())
        return self._programs["plain"](*given)

    def _probed(self, given: tuple[Any, ...], session: Session) -> torch.Tensor:
        if self.compilation.backend == "none" or self._grafting:
            return self._exchanged(given, session)
        return self._tapped(given, session)

    def _exchanged(self, given: tuple[Any, ...], session: Session) -> torch.Tensor:
        """Python is called at every point, and the pass goes on with what the probe gives."""
        calls, held = [0] * len(self.instrument.points), {}

        def exchange(number: int, value: torch.Tensor) -> torch.Tensor:
            calls[number] += 1
            source = self.instrument.points[number].source
            if len(source.tensor.results) == 1:
                return session.exchange(source, value)
            pair = held.setdefault(id(source), {})
            pair[self.instrument.points[number].result] = value
            if len(pair) == len(source.tensor.results):
                session.exchange(source, tuple(pair[n] for n in source.tensor.results))  # pyright: ignore[reportArgumentType]
            return value

        if self.compilation.backend == "none":
            with self.instrument.installed(exchange, replacing=self._grafting):
                out = self._call()(*given)
        else:
            number, meter = self.instrument.number, torch.zeros(1, dtype=torch.int64, device=self.model.device)
            ops.EXCHANGES[number] = exchange
            try:
                with self.instrument.installed(lambda n, x: ops.exchange(x, meter, number, n), replacing=True):
                    if "exchange" not in self._programs:
                        self._programs["exchange"] = self.compilation.compiled(self._call(), graphs=False)
                    out = self._programs["exchange"](*given)
            finally:
                del ops.EXCHANGES[number]
        self.instrument.check_fired(calls)
        return out

    def _tapped(self, given: tuple[Any, ...], session: Session) -> torch.Tensor:
        """The graph writes into buffers, which are read when it is done."""
        tokens = given[0].shape[1]
        buffers = self._ready_buffers(tokens)
        buffers.reset()
        with self.instrument.installed(buffers.put, replacing=False):
            if "tapped" not in self._programs:
                self._programs["tapped"] = self.compilation.compiled(self._call())
            out = self._programs["tapped"](*given)
        meters = buffers.calls()
        self.instrument.check_fired([calls for calls, _ in meters])
        values: dict[Any, list[torch.Tensor]] = {}
        for number, point in enumerate(self.instrument.points):
            rows = given[3] if given[3] and point.source.stages == ("logits",) else tokens
            shape = shape_of(point.source, rows, self.sizes)
            if meters[number][1] != torch.Size(shape).numel():
                raise ProbeError(
                    place=point.name,
                    expected=f"{list(shape)} in a step of {tokens} tokens",
                    found=f"{meters[number][1]} elements",
                    next_step="Its axes in the stage map are others than the module's; correct the map.",
                )
            values.setdefault(point.source, []).append(buffers.read(number, shape))
        for source in self._order:
            session.show(source, tuple(values[source]))
        return out

    def _ready_buffers(self, tokens: int) -> Buffers:
        """Buffers for a step of that many tokens; larger ones mean another program."""
        if self._buffers is None or self._buffers.tokens < tokens:
            if self.instrument.points[0].dtype is None:
                self._learn()
            room = max(CACHE_STEP, 1 << (tokens - 1).bit_length())
            self._buffers = Buffers(self.instrument, room, self.sizes, self.model.device)
            self._programs.pop("tapped", None)
        return self._buffers

    def _learn(self) -> None:
        """One token through the module uncompiled: what each point's dtype is, and whether its axes are the map's."""
        points = self.instrument.points

        def learn(number: int, value: torch.Tensor) -> torch.Tensor:
            shape = shape_of(points[number].source, 1, self.sizes)
            if tuple(value.shape) != shape:
                raise ProbeError(
                    place=points[number].name,
                    expected=f"{list(shape)} for one token",
                    found=f"{list(value.shape)}",
                    next_step="Its axes in the stage map are others than the module's; correct the map.",
                )
            points[number].dtype = value.dtype
            return value

        device = self.model.device
        cache = None if self.model.new_cache is None else self.model.new_cache(0)
        one = torch.zeros(1, 1, dtype=torch.int64, device=device)
        with self.instrument.installed(learn, replacing=False):
            self._call()(one, one, cache, 0)
        self.instrument.check_fired([int(point.dtype is not None) for point in points])

    def _call(self) -> Callable[..., torch.Tensor]:
        module, feed = self.model.module, self.model.feed

        def call(ids: torch.Tensor, positions: torch.Tensor, cache: Any, keep: int) -> torch.Tensor:
            return feed(module, ids, positions, cache, keep)

        return call

    def _run(self, requests: Sequence[Request], schedule: Schedule) -> Run:
        run = super()._run(requests, schedule)
        return replace(run, declared=self.model.stage_map.sites(run.layers))

    def _check(self, requests: Sequence[Request], schedule: Schedule, new_tokens: int = 0) -> None:
        super()._check(requests, schedule, new_tokens)
        self._tokens = max((len(request.ids) for request in requests), default=0) + new_tokens


def _lineage(model: TorchModel) -> Lineage:
    """The hash of a module's weights: each tensor's name, dtype, shape and bytes."""
    digest = sha256()
    for name, tensor in model.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().flatten().view(torch.uint8).numpy()).tobytes())
    return Lineage(f"sha256:{digest.hexdigest()}")
