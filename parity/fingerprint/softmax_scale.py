"""Are the attention scores scaled otherwise? The scale that reproduces the SUT's context from its own q, k, v."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from parity.fingerprint.attend import Attention, attention_of
from parity.fingerprint.causes import SOFTMAX_SCALE
from parity.fingerprint.evidence import LEAST_SHARE, listed, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

FACTORS = np.concatenate([[0.0], np.geomspace(1 / 64, 64, 13)])
"""Factors on the scale that the search starts from, two apart by a factor of 2; 0 is the mean of the visible values.
sqrt of a ratio of head dimensions, a scale applied twice or not at all (sqrt(K) <= 23 for K <= 512) lie inside."""

COARSE = 16
"""Queries that tell whether any factor explains the error."""

ROUNDS = 14
"""Golden-section steps inside one bracket of a factor of 4: the factor is known to 4 * 0.618^14 = 0.5 % and better."""


@reads_values
def detect_softmax_scale(field: ErrorField) -> Fingerprint | None:
    """Find the factor on the softmax scale that reproduces an `attn.context`. score: the share of the error explained.

    Needs the inputs attn.q_rope [T, H, K], attn.k_rope and attn.v [T, G, K] of positions 0..T-1 (SUT's own).
    """
    attention = attention_of(field)
    if attention is None or len(field.x) < 2:
        return None
    return _scaled(attention, None) or _heads_scaled(attention)


def _heads_scaled(attention: Attention) -> Fingerprint | None:
    """The same where some heads carry the error and the others are right."""
    error = (attention.sut - attention.oracle).square().sum((0, 2)).numpy()
    heads = np.flatnonzero(error > LEAST_SHARE * error.mean())
    if not 0 < len(heads) < len(error):
        return None
    return _scaled(attention.of_heads(heads), heads, among=attention.error)


def _scaled(attention: Attention, heads: NDArray[np.int64] | None, *, among: float | None = None) -> Fingerprint | None:
    """The factor that reproduces these heads (None: all). among: energy of the whole error, where others have some."""
    base = attention.scale
    # Whether any scale is worth it is asked of few queries; which one it is, of all sampled ones.
    if _best(attention.fewer(COARSE))[1] > 1 - LEAST_SHARE:
        return None
    factor, loss = _best(attention)
    unchanged = attention.explained(scores=attention.scores())
    share = 1.0 if among is None else attention.error / among
    score = share * (1 - loss)
    # The right scale must not explain as much: then the oracle's tensor is not this attention.
    if not (score >= LEAST_SHARE and score - share * unchanged >= LEAST_SHARE):
        return None
    if not attention.agrees(attention.context(scale=factor * base)):
        return None
    numbers = {
        "factor": factor,
        "scale": factor * base,
        "expected_scale": base,
        "head_dim_of_this_scale": None if factor == 0 else attention.head_dim / factor**2,
        "explained_by_right_scale": unchanged,
        "queries": len(attention.positions),
    }
    meaning = (
        "all visible values weigh the same"
        if factor == 0
        else f"as of head dimension {attention.head_dim / factor**2:.4g}"
    )
    of = "" if heads is None else f" of head{'s' if len(heads) > 1 else ''} {listed(heads.tolist())}"
    sentence = (
        f"Attention{of} computed here from the SUT's own q, k and v with scores scaled by {factor:.4g} times 1/sqrt("
        f"{attention.head_dim}) ({meaning}) reproduces the SUT: {percent(score)} of the error."
    )
    return Fingerprint(
        SOFTMAX_SCALE, score, numbers, sentence, Slice(heads=None if heads is None else tuple(heads.tolist()))
    )


def _best(attention: Attention) -> tuple[float, float]:
    """(factor on the scale, share of the error that it leaves) of the best one."""
    scores = attention.scores()

    def rest(factor: float) -> float:
        return 1 - attention.explained(scale=factor * attention.scale, scores=scores)

    losses = [rest(float(f)) for f in FACTORS]
    best = int(np.argmin(losses))
    if best == 0:
        return 0.0, losses[0]
    factor, loss = _refine(rest, FACTORS[max(best - 1, 1)], FACTORS[min(best + 1, len(FACTORS) - 1)])
    loss, factor = min((loss, factor), (losses[best], float(FACTORS[best])))
    return factor, loss


def _refine(rest: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """(factor, loss) of the minimum between low and high, golden section over the logarithm."""
    golden = (math.sqrt(5) - 1) / 2
    a, b = math.log(low), math.log(high)
    c, d = b - golden * (b - a), a + golden * (b - a)
    fc, fd = rest(math.exp(c)), rest(math.exp(d))
    for _ in range(ROUNDS):
        if fc < fd:
            b, d, fd = d, c, fc
            c = b - golden * (b - a)
            fc = rest(math.exp(c))
        else:
            a, c, fc = c, d, fd
            d = a + golden * (b - a)
            fd = rest(math.exp(d))
    return (math.exp(c), fc) if fc < fd else (math.exp(d), fd)
