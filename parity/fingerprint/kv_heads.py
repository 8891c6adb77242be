"""Does each query head read its own key/value head? Every other one is tried on the SUT's own tensors."""

from __future__ import annotations

import numpy as np

from parity.fingerprint.attend import Attention, attention_of
from parity.fingerprint.causes import HEADS_ALIASED, HEADS_PERMUTED
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

COARSE = 16
"""Queries on which the key/value head of each query head is found; the map is judged on the same ones."""

READ = ("keys and values", "values", "keys")
"""What of the other head may be read; of two that explain alike the earlier one is said."""


@reads_values
def detect_kv_heads(field: ErrorField) -> Fingerprint | None:
    """Find query heads of `attn.context` that attend over another key/value head than theirs. score: the share of the
    error explained over the sampled queries.

    Aliased: some key/value head is read by no query head any more; permuted: all are.
    """
    attention = attention_of(field)
    if attention is None or attention.k.shape[1] < 2:
        return None
    sample = attention.fewer(COARSE)
    groups, heads = sample.k.shape[1], sample.q.shape[1]
    own = np.arange(heads) // (heads // groups)
    error = (sample.sut - sample.oracle).square().sum((0, 2)).double().numpy()
    left, source, what = min((_moved(sample, own, error, what) for what in READ), key=lambda found: found[0])
    moved = source != own
    if not moved.any():
        return None
    score = float(1 - left / error.sum())
    if score < LEAST_SHARE:
        return None
    read = sorted(set(source.tolist()))
    cause = HEADS_PERMUTED if len(read) == groups else HEADS_ALIASED
    numbers = {"kv_head_of_query_head": source.tolist(), "read_there": what, "expected": own.tolist()}
    sentence = (
        f"{int(moved.sum())} of {heads} query heads attend over {what} of another key/value head than theirs "
        f"({', '.join(f'{h}: {source[h]}' for h in np.flatnonzero(moved)[:8])}){_rule(source, groups)}: "
        f"{percent(score)} of the error."
    )
    return Fingerprint(cause, score, numbers, sentence, Slice(heads=tuple(np.flatnonzero(moved).tolist())))


def _rule(source: np.ndarray, groups: int) -> str:
    """The formula of the whole map in words, where it is a known one."""
    if len(source) > groups and np.array_equal(source, np.arange(len(source)) % groups):
        return f", query head h that of h modulo {groups} in place of h // {len(source) // groups}"
    return ""


def _moved(sample: Attention, own: np.ndarray, error: np.ndarray, what: str) -> tuple[float, np.ndarray, str]:
    """(energy left, key/value head that explains each query head best, what is read there)."""
    rests = np.stack([_rest(sample, group, what) for group in range(sample.k.shape[1])])
    best = rests.argmin(0)
    moved = (best != own) & (rests.min(0) < (1 - LEAST_SHARE) * error)
    return float(np.where(moved, rests.min(0), error).sum()), np.where(moved, best, own), what


def _rest(attention: Attention, group: int, what: str) -> np.ndarray:
    """[H], energy left of each head when all query heads read this key/value head."""
    everywhere = [group] * attention.k.shape[1]
    k = attention.k[:, everywhere] if "keys" in what else attention.k
    v = attention.v[:, everywhere] if "values" in what else attention.v
    mixed = attention.context(scores=attention.scores(k), v=v)
    return (attention.sut - mixed).square().sum((0, 2)).double().numpy()
