"""Do two paths of one op agree on the same input? A kernel against its reference, without any oracle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from parity.errors import RunnerError
from parity.invariance.differ import agree
from parity.invariance.judging import judge, rounding_bound
from parity.invariance.record import Invariance, Outcome, not_run
from parity.invariance.subject import Subject
from parity.records import Capture
from parity.runner import ComputedGraft, Schedule
from parity.trace import MemoryTrace, Trace

STEPS = 2
"""Decode steps at the end, so that the ops that only decode uses are run too."""


@dataclass
class Isolate:
    """A graft that keeps what the forward pass computed at a site and lets it go on with the base's tensor instead."""

    layer: int | None
    stage: str
    base: Trace
    own: list[tuple[Capture, torch.Tensor]] = field(default_factory=list)
    needs: tuple[tuple[int | None, str], ...] = ()
    history: bool = False

    def compute(self, own: Capture, tensor: torch.Tensor, seen: Trace) -> torch.Tensor:
        self.own.append((own, tensor.clone()))
        for capture in self.base.select(stage=self.stage, layer=self.layer, phase=own.phase):
            if (capture.step, capture.chunk) == (own.step, own.chunk) and _same_rows(capture, own):
                return self.base.tensor(capture).to(tensor.device, tensor.dtype).clone()
        raise RunnerError(
            place=f"isolation of {own.name}",
            expected="the same rows in the same order in both runs",
            found=f"others in {own.phase} step {own.step}",
            next_step="Both paths of the ops must permute alike; compare moe.topk_ids and permute first.",
        )


def check_variants(subject: Subject) -> Invariance:
    """Sister variants: every op by its other path, each stage from the plain run's own inputs.

    Only the op that makes a stage (and the quantization in front of it) lies between both arms there, so that the first
    stage that is off names it; the op is then found by taking its other path alone.
    """
    turn = "every op that has one by its other path, stage by stage from the same inputs"
    missing = subject.lacks("variant", "graft")
    paths = subject.info.variants
    if missing or not paths:
        return not_run("variants", turn, missing or "The runner names no other path of any op.")
    schedule = Schedule(decode=STEPS)
    base = subject.forward(f"{STEPS} decode steps, plain", [subject.brief], schedule=schedule)
    records = [_compare_path(subject, base, path, turn, schedule) for path in _choices(paths)]
    bad = [record for record in records if record.outcome is not Outcome.HELD]
    if bad:
        return bad[0]
    worst = max(records, key=lambda record: record.numbers["worst_rel_l2"])
    tried = {"paths": [record.evidence["path"] for record in records], "ops": worst.evidence["ops"]}
    return replace(worst, evidence=tried)


def _compare_path(subject: Subject, base: Trace, path: str, turn: str, schedule: Schedule) -> Invariance:
    ops = {op: path for op, known in subject.info.variants.items() if path in known}
    trace = _isolated(subject, base, ops, schedule, f"other path of {len(ops)} ops")
    if trace is None:
        why = "The runner is in another process, where nothing could be kept: use its `call(run_checks, ...)`."
        return not_run("variants", turn, why)
    evidence = {"path": path, "ops": len(ops), "stages_isolated": len(trace.captures)}
    within = rounding_bound(subject.info)
    record = judge(
        "variants", subject, base=base, turned=trace, turn=turn, evidence=evidence, bound=within,
        skip=lambda _, stage: stage in subject.info.inner,
    )  # fmt: skip
    if record.outcome is not Outcome.BROKEN or record.site is None:
        return record
    guilty, stage = [], record.site.stage
    for op in ops:
        # All other ops stay on the other path, which costs less than to take this one alone off its kernel.
        rest = {other: path for other in ops if other != op}
        own = _isolated(subject, base, rest, schedule, f"{op} alone by its own path")
        assert own is not None
        found = agree(own, trace, within=within, skip=lambda _, other: other != stage)
        if found.first is not None:
            guilty.append(op)
            layers = sorted({d.layer for d in found.differences if d.layer is not None})
            record = replace(record, site=replace(record.site, layers=tuple(layers) or record.site.layers))
            break
    named = f" It is {guilty[0]}, whose path `{path}` computes it otherwise." if guilty else ""
    return replace(record, sentence=record.sentence + named, numbers={**record.numbers, "ops": tuple(guilty)})


def _isolated(subject: Subject, base: Trace, ops: Mapping[str, str], schedule: Schedule, what: str) -> Trace | None:
    """A run in which each stage is computed from the base's inputs: what it computed there, as a trace."""
    sites = dict.fromkeys((c.layer, c.stage) for c in base.captures if c.stage not in subject.info.inner)
    grafts = [Isolate(layer, stage, base) for layer, stage in sites]
    placed: list[ComputedGraft] = list(grafts)
    subject.forward(what, [subject.brief], schedule=schedule, graft=placed, stages=("logits",), variant=ops)
    kept = [pair for graft in grafts for pair in graft.own]
    if not kept:
        return None
    captures = tuple(replace(capture, number=number) for number, (capture, _) in enumerate(kept))
    return MemoryTrace(base.run, captures, {number: tensor for number, (_, tensor) in enumerate(kept)})


def _choices(paths: Mapping[str, tuple[str, ...]]) -> list[str]:
    return list(dict.fromkeys(path for known in paths.values() for path in known))


def _same_rows(a: Capture, b: Capture) -> bool:
    if (a.rows.slot is None) != (b.rows.slot is None) or len(a.rows) != len(b.rows):
        return False
    same = (a.rows.request == b.rows.request).all() and (a.rows.position == b.rows.position).all()
    return bool(same and (a.rows.slot is None or (a.rows.slot == b.rows.slot).all()))
