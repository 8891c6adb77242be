"""Are keys and values stored in FP8 E4M3? Attention over such copies of them, tried on the SUT's own tensors."""

from __future__ import annotations

import torch

from parity.fingerprint.attend import Attention, attention_of
from parity.fingerprint.causes import E4M3_GRID
from parity.fingerprint.e4m3_grid import stored_as_e4m3
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

COARSE = 16
"""Queries that tell whether any format explains the error; which one it is, all sampled ones say."""


@reads_values
def detect_kv_grid(field: ErrorField) -> Fingerprint | None:
    """Find that `attn.context` is attention over keys, values or both rounded to E4M3, under scale 1 or a scale of
    amax / 448 of the tensor or of each row. score: the share of the error explained over the sampled queries."""
    attention = attention_of(field)
    if attention is None or max(_explained(attention.fewer(COARSE)).values()) < LEAST_SHARE:
        return None
    tried = _explained(attention)
    (what, name), score = max(tried.items(), key=lambda item: item[1])
    if score < LEAST_SHARE or score - max(attention.explained(), 0.0) < LEAST_SHARE:
        return None
    numbers = {"stored": what, "scale": name, "explained": {f"{a}, {b}": s for (a, b), s in tried.items()}}
    sentence = f"Attention over {what} stored in E4M3 with scale {name} gives the SUT's tensor: {percent(score)} of it."
    return Fingerprint(E4M3_GRID, score, numbers, sentence, Slice())


def _explained(attention: Attention) -> dict[tuple[str, str], float]:
    """Share of the error that each way to store keys, values or both explains, by (what, scale)."""
    scores, tried = attention.scores(), {}
    for name in ("1", "amax / 448 of the tensor", "amax / 448 of each row"):
        k, v = (_stored(name, t) for t in (attention.k, attention.v))
        rounded = attention.scores(k)
        tried["keys and values", name] = attention.explained(scores=rounded, v=v)
        tried["keys", name] = attention.explained(scores=rounded)
        tried["values", name] = attention.explained(scores=scores, v=v)
    return tried


def _stored(name: str, values: torch.Tensor) -> torch.Tensor:
    """[T, G, K] through E4M3; a row is one head of one token."""
    return stored_as_e4m3(name, values.reshape(-1, values.shape[-1])).view(values.shape)
