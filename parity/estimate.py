"""What will a capture cost in time, memory and disk? Told from sizes alone, before anything is loaded.

The size of the trace is counted, record by record, with the functions that write it; only the routing of tokens to
experts is drawn at random. Time and memory are models, stated with their numbers, and are estimates.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.errors import UsageError
from parity.preview import RunnerPreview
from parity.probes import admits, check_plan
from parity.probes.disk_sink import FLUSH_SECONDS
from parity.probes.plan import Tokens
from parity.records import Capture, Lineage, Recipe, Rows, Run, as_json
from parity.runner import CapturePlan, Request, Schedule, check_requests
from parity.stages import family, term
from parity.trace import capture_environment
from parity.trace.journal import encode_line
from parity.trace.manifest import capture_line, header_line, step_line
from parity.trace.rowdata import encode, fields_of
from parity.trace.shard import BY_NAME
from parity.trace.shard_writer import ENTRY_BYTES
from parity.trace.writer import FLUSH_BYTES

GEMM = (256, 1024, 1024)
"""Rows, depth and columns of the product whose speed stands for the model's: a small one, as of an expert."""


@dataclass(frozen=True)
class Step:
    """A step of the schedule: the positions start..stop-1 of the request, in `phase`."""

    phase: str
    step: int
    chunk: int
    start: int
    stop: int


@dataclass(frozen=True)
class CaptureEstimate:
    """What a capture will take. Bytes and seconds; `operations` are floating-point operations.

    trace_bytes: all files of the trace; payload_bytes: of them, the tensors. weight_bytes, memory_bytes: the weights,
    and all that is held at once, libraries left out. seconds: of the forward pass, loading left out; rate: the
    operations a second that it rests on; model: both models in words.
    """

    sites: int
    captures: int
    steps: int
    payload_bytes: int
    trace_bytes: int
    weight_bytes: int
    memory_bytes: int
    operations: float
    rate: float
    seconds: float
    model: str


def estimate_capture(
    preview: RunnerPreview, request: Request, *, schedule: Schedule, plan: CapturePlan, rate: float | None = None
) -> CaptureEstimate:
    """The cost of capturing `request` under `plan` with the runner that `preview` describes.

    rate: operations a second; None takes the runner's own, or measures a small product on this machine.
    Raises UsageError for what the capture would refuse: a plan or a request that does not fit the model.
    """
    tokens = check_plan(plan, layers=preview.layers)
    check_requests([request], schedule, vocab=preview.vocab, max_positions=preview.max_positions)
    graph = family(preview.family)
    declared = tuple(
        (layer, stage.name)
        for layer, stage in graph.sites(preview.layers)
        if stage.name in preview.stages and admits(plan, layer, stage.name)
    )
    if not declared:
        raise UsageError(
            place="capture plan",
            expected=f"some of the sites of a {preview.family} model of {preview.layers} layers",
            found=f"layers {plan.layers or 'all'}, stages {plan.stages or 'all'}, which fit none of them",
            next_step="Stages outside the layers (logits) must be named in full when layers are given.",
        )
    steps = list(plan_steps(len(request.ids), schedule))
    operations = count_operations(preview, steps)
    rate = rate or preview.flops or measure_rate(preview.device, preview.dtypes["attn.norm"])
    seconds = operations / rate + len(steps) * preview.layers * preview.layer_seconds
    counted = _Counter(preview, request, schedule, plan, tokens, declared)
    for step in steps:
        counted.add(step)
    total = counted.stats_bytes() if plan.mode == "stats" else counted.trace_bytes(seconds)
    if not counted.payload:
        raise UsageError(
            place="capture plan",
            expected="at least one row",
            found=f"none: tokens={plan.tokens} fits no position of these {len(request.ids)} ids",
            next_step="Positions are absolute; widen the range.",
        )
    model = (
        f"{operations:.3g} operations (2 a weight and token, 4 a query, key and head dimension) at {rate:.3g} a second"
        + (f", and {preview.layer_seconds:g} s a layer and step" if preview.layer_seconds else "")
        + "; memory: weights, KV cache, logits and the widest layer of the largest step"
    )
    return CaptureEstimate(
        sites=len(declared),
        captures=counted.captures,
        steps=len(steps),
        payload_bytes=0 if plan.mode == "stats" else counted.payload,
        trace_bytes=total,
        weight_bytes=preview.weight_bytes,
        memory_bytes=preview.weight_bytes + activation_bytes(preview, steps),
        operations=operations,
        rate=rate,
        seconds=seconds,
        model=model,
    )


def plan_steps(length: int, schedule: Schedule) -> Iterator[Step]:
    """The steps that feed one request of `length` ids: prefill, in chunks where asked, then decode steps."""
    prompt = length - schedule.decode
    chunk = schedule.chunk or prompt
    for number, start in enumerate(range(0, prompt, chunk)):
        yield Step("prefill", 0, number, start, min(start + chunk, prompt))
    for step in range(1, schedule.decode + 1):
        yield Step("decode", step, 0, prompt + step - 1, prompt + step)


def count_operations(preview: RunnerPreview, steps: list[Step]) -> float:
    """Multiplications and additions of a decoder: 2 for each weight that a token meets, 4 for each query, key and
    dimension of a head (scores and the weighted sum). Norms, softmax and rope are left out."""
    a = preview.axes
    attention = a["D"] * (a["H"] + 2 * a["G"]) * a["K"] + a["H"] * a["K"] * a["D"]
    met = preview.layers * (attention + a["D"] * a["E"] + a["S"] * 3 * a["D"] * a["F"]) + a["V"] * a["D"]
    tokens = sum(step.stop - step.start for step in steps)
    pairs = sum((step.stop * (step.stop + 1) - step.start * (step.start + 1)) // 2 for step in steps)
    return 2.0 * tokens * met + 4.0 * preview.layers * a["H"] * a["K"] * pairs


def activation_bytes(preview: RunnerPreview, steps: list[Step]) -> int:
    """KV cache of all positions, logits, and every tensor of one layer, for the rows of the largest step."""
    a, rows = preview.axes, max(step.stop - step.start for step in steps)
    layer = sum(_row_bytes(preview, stage) * (a["S"] if term(stage).axes[0] == "R" else 1) for stage in preview.stages)
    positions = max(step.stop for step in steps)
    cache = 2 * preview.layers * a["G"] * a["K"] * _size(preview, "attn.k_rope")
    return rows * layer + positions * cache


def measure_rate(device: str, dtype: str) -> float:
    """Operations a second of a small product [256, 1024] x [1024, 1024] in `dtype`, the best of five; 0.1 s."""
    rows, depth, columns = GEMM
    kind = BY_NAME[dtype]
    x, w = torch.ones(rows, depth, dtype=kind, device=device), torch.ones(depth, columns, dtype=kind, device=device)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(x, w)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows * depth * columns / best


class _Counter:
    """Counts the bytes of a trace as its writer would write them."""

    def __init__(
        self,
        preview: RunnerPreview,
        request: Request,
        schedule: Schedule,
        plan: CapturePlan,
        tokens: Tokens,
        declared: tuple[tuple[int | None, str], ...],
    ) -> None:
        self.preview = preview
        self.request = request
        self.plan = plan
        self.tokens = tokens
        self.declared = declared
        self.last = (len(request.ids) - schedule.decode - 1,)
        # Sites of a stage differ by the number of their layer alone: one of them stands for all.
        self.places: dict[str, list[int | None]] = {}
        for layer, stage in declared:
            self.places.setdefault(stage, []).append(layer)
        self.captures = 0
        self.payload = 0
        self.lines = 0
        self.companions = 0
        self.shards = 0
        self.stats: set[tuple[str, str, int]] = set()
        self.random = np.random.default_rng(0)
        self._seen: dict[Any, tuple[int, int, int, int]] = {}

    def add(self, step: Step) -> None:
        rows = Rows(np.zeros(step.stop - step.start, np.int32), np.arange(step.start, step.stop, dtype=np.int64))
        mask = self.tokens.keep(rows, phase=step.phase, last_position=self.last)
        kept = len(rows) if mask is None else int(mask.sum())
        self.lines += len(encode_line(step_line(step.phase, step.step, step.chunk), 2**31))
        if not kept:
            return
        self.stats |= {(stage, step.phase, step.step) for stage in self.places}
        # Steps of as many rows differ in numbers of a few digits: each kind is counted once.
        key = (step.phase, len(rows), kept)
        if key not in self._seen:
            self._seen[key] = self._count(step, rows, mask)
        captures, payload, lines, companions = self._seen[key]
        self.captures += captures
        self.payload += payload
        self.lines += lines
        self.companions += companions
        self.shards += 1 + payload // FLUSH_BYTES

    def _count(self, step: Step, rows: Rows, mask: Any) -> tuple[int, int, int, int]:
        expert_rows, offsets = self._routed(rows)
        captures = payload = lines = companions = 0
        stored: dict[bytes, int] = {}
        for stage, layers in self.places.items():
            of_experts = term(stage).axes[0] == "R"
            these, kept = (expert_rows, None) if of_experts else (rows, mask)
            geometry: dict[str, Any] = {"tile_m": 64, "expert_offsets": offsets} if of_experts else {}
            if of_experts and mask is not None:
                kept = mask[these.position - step.start]
            if kept is not None:
                index = np.flatnonzero(kept)
                these, geometry = these.take(index), {**geometry, "row": index.astype(np.int64)}
            capture = Capture(
                number=len(self.declared), stage=stage, layer=layers[-1], phase=step.phase, step=step.step,
                chunk=step.chunk, axes=term(stage).axes, dtype=self.preview.dtypes[stage],
                shape=(len(these), *(self.preview.axes[letter] for letter in term(stage).axes[1:])),
                rows=these, geometry=geometry,
            )  # fmt: skip

            def store(values: torch.Tensor) -> str:
                stored.setdefault(values.numpy().tobytes(), values.numel() * values.element_size())
                return "rows.00"

            fields = {name: encode(values, store) for name, values in fields_of(capture).items()}
            line = capture_line(capture, shard="shard-00000.safetensors", tensor="capture.0000", crc=2**31, rows=fields)
            size = len(encode_line(line, 2**31)) + (self.preview.expert_line_bytes if of_experts else 0)
            captures += len(layers)
            payload += len(layers) * len(these) * _row_bytes(self.preview, stage)
            lines += len(layers) * size
        # Each layer routes otherwise, so that its rows are stored anew.
        inside = max(len([layer for layer in layers if layer is not None]) for layers in self.places.values())
        companions = max(inside, 1) * sum(stored.values())
        return captures, payload, lines, companions

    def _routed(self, rows: Rows) -> tuple[Rows, list[int]]:
        """Expert rows of these token rows as an engine sorts them, with experts drawn at random."""
        tokens, experts, slots = len(rows), self.preview.axes["E"], self.preview.axes["S"]
        chosen = (self.random.integers(0, experts, (tokens, 1)) + np.arange(slots)) % experts
        order = np.argsort(chosen, axis=None, kind="stable")
        token, slot = order // slots, (order % slots).astype(np.int32)
        expert = chosen.ravel()[order].astype(np.int32)
        counts = np.bincount(expert, minlength=experts)
        return Rows(rows.request[token], rows.position[token], slot, expert), [0, *np.cumsum(counts).tolist()]

    def trace_bytes(self, seconds: float) -> int:
        # A slow run ends its shard every few seconds, and each shard keeps room for the names of all sites.
        shards = max(self.shards, int(seconds / FLUSH_SECONDS))
        room = 8 + max(3 * len(self.declared), 64) * ENTRY_BYTES
        header = len(encode_line(header_line(self._run()), 0)) + 80
        return self.payload + self.companions + self.lines + header + shards * room

    def stats_bytes(self) -> int:
        size = len(json.dumps({"run": as_json(self._run())}, indent=1))
        rows = len(self.request.ids)
        for stage, phase, step in self.stats:
            # Moments are fp64; the least and the largest value have the digits of the payload's own dtype.
            extreme = -1.5078125 if _size(self.preview, stage) <= 2 else -1.234567880630493
            record = {
                "layer": 1, "stage": stage, "phase": phase, "step": step, "rows": rows,
                "count": rows * _row_bytes(self.preview, stage), "mean": 0.12345678901234567,
                "std": 1.2345678901234567, "min": extreme, "max": extreme, "l2": 123.45678901234567, "nonfinite": 0,
                "zeros": 0,
            }  # fmt: skip
            # Two brackets and their line breaks are the list's own.
            size += len(self.places[stage]) * (len(json.dumps({"statistics": [record]}, indent=1)) - 26)
        return size

    def _run(self) -> Run:
        name = self.preview.recipe
        return Run(
            family=self.preview.family,
            model="x" * 40,
            layers=self.preview.layers,
            request_names=(self.request.name,),
            requests=(self.request.ids,),
            recipe=Recipe(name, *("e4m3 128x128",) * 6),
            lineage=Lineage("sha256:" + "0" * 64),
            environment=capture_environment(device=self.preview.device),
            declared=self.declared,
            hyper={f"a_hyper_parameter_{number}": 1000 for number in range(16)},
            flags={"chunk": None, "decode": 0, "runner": self.preview.name},
        )


def _size(preview: RunnerPreview, stage: str) -> int:
    return BY_NAME[preview.dtypes[stage]].itemsize


def _row_bytes(preview: RunnerPreview, stage: str) -> int:
    return math.prod(preview.axes[letter] for letter in term(stage).axes[1:]) * _size(preview, stage)


def folder_bytes(folder: str | Path) -> int:
    """Bytes of the files directly in a folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())
