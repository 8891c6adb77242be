"""Data for the figures: a planted fault and awkward shapes, all from seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from parity.fingerprint import ErrorField, ReducedField, reduce_field
from parity.records import Comparison, SliceResult, Summary, Verdict, site_name

STAGES = (
    "attn.norm", "attn.q", "attn.k", "attn.v", "attn.context", "attn.out", "resid.mid", "moe.gate", "moe.up",
    "moe.down", "resid.out",
)  # fmt: skip
Score = Callable[[int | None, str], tuple[Verdict, float | None]]


def summary(layers: int, score: Score, *, mode: str = "chained") -> Summary:
    """A summary of `layers` layers whose verdicts `score` decides."""
    sites: list[tuple[int | None, str]] = [(None, "embed.out")]
    sites += [(layer, stage) for layer in range(layers) for stage in STAGES]
    records = []
    for layer, stage in sites:
        verdict, over = score(layer, stage)
        worst = (SliceResult("row", 3, "position 3", {"rel_l2": 0.1, "nonfinite": 0.0}, over, "rel_l2"),)
        reason = "" if verdict.healthy else "planted"
        name = site_name(layer, stage)
        records.append(
            Comparison(name, layer, stage, "prefill", verdict, {}, worst, over, 10, reason=reason, mode=mode)
        )
    return Summary(tuple(record.name for record in records), tuple(records))


def within(layer: int | None, stage: str) -> tuple[Verdict, float | None]:
    return Verdict.WITHIN_FLOOR, 0.2 + 0.1 * ((hash_of(stage) + (layer or 0)) % 7)


def gate_is_wrong(layer: int | None, stage: str) -> tuple[Verdict, float | None]:
    """moe.gate of layers 1 and 2, alone."""
    return (Verdict.EXCEEDS_FLOOR, 40.0 * layer) if layer in (1, 2) and stage == "moe.gate" else within(layer, stage)


def gate_is_passed_on(layer: int | None, stage: str) -> tuple[Verdict, float | None]:
    """The same, and all that follows."""
    after = layer is not None and (layer > 1 or (layer == 1 and STAGES.index(stage) >= STAGES.index("moe.gate")))
    return (Verdict.EXCEEDS_FLOOR, 4.0) if after else within(layer, stage)


def hash_of(text: str) -> int:
    """`hash` differs from process to process."""
    return sum(map(ord, text))


def field(
    shape: tuple[int, ...] = (64, 6, 16),
    axes: tuple[str, ...] = ("T", "H", "K"),
    *,
    change: Callable[[torch.Tensor], None] = lambda x: None,
    stage: str = "attn.context",
    noise: float = 0.01,
    launch: np.ndarray | None = None,
    phase: np.ndarray | None = None,
) -> ErrorField:
    """A field with 1 % noise that `change` damages in place."""
    source = torch.Generator().manual_seed(1)
    oracle = torch.randn(shape, generator=source)
    sut = oracle + noise * torch.randn(shape, generator=source)
    change(sut)
    return ErrorField(stage, 1, oracle, sut, axes, launch=launch, phase=phase)


def experts_cut_off(*, tokens: int = 160, experts: int = 6, tile: int = 16, cap: int = 48) -> ReducedField:
    """Expert rows of a skewed load, those beyond `cap` rows of an expert lost; tiles known."""
    random = np.random.default_rng(5)
    share = np.array([0.45, *[0.55 / (experts - 1)] * (experts - 1)])
    expert = random.choice(experts, size=(tokens, 1), p=share).astype(np.int32)
    number = np.zeros_like(expert)
    for e in range(experts):
        hit = expert[:, 0] == e
        number[hit, 0] = np.arange(hit.sum())
    oracle = torch.from_numpy(random.standard_normal((tokens, 1, 40)).astype(np.float32))
    sut = oracle + 0.01 * torch.from_numpy(random.standard_normal((tokens, 1, 40)).astype(np.float32))
    sut[torch.from_numpy(number >= cap)] = 0
    made = ErrorField(
        "moe.gate", 1, oracle, sut, ("T", "S", "F"), expert=expert, row_in_expert=number.astype(np.int64), tile_m=tile
    )
    return reduce_field(made)
