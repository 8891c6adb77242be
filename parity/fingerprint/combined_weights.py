"""Are a token's experts added up with weights that are not its own? Another token's, or another slot's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import torch

from parity.fingerprint.causes import WRONG_INPUT
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.missing_slot import weighted_parts
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

REACH = 8
"""Tokens before and behind whose weights are tried; a buffer that is off by more is any other token's."""

PERMUTED = 4
"""Slots up to which every order is tried; of more, exchanged neighbours, a shift by one and the reverse order."""


@reads_values
def detect_combined_weights(field: ErrorField) -> Fingerprint | None:
    """Find rows of `moe.experts` that are the sum of their own parts with other weights of `moe.topk_weights`.

    One shift of tokens or order of slots is tried for all rows; a row counts where it explains most of its error.
    score: the share of the error explained. Needs `moe.down` and `moe.topk_weights`, as missing_slot does.
    """
    if weighted_parts(field) is None:
        return None
    down, weights = field.inputs["moe.down"].float(), field.inputs["moe.topk_weights"].float()
    errors = field.d.square().sum(1)
    best: tuple[float, str, torch.Tensor, torch.Tensor] | None = None
    for words, others in _candidates(weights):
        known = torch.isfinite(others).all(1)
        made = (torch.where(known[:, None], others, weights)[:, None] @ down)[:, 0]
        hit = known & ((field.x - made).square().sum(1) < (1 - LEAST_SHARE) * errors)
        if not hit.any():
            continue
        score = share_after(field, torch.where(hit[:, None], made, field.y))
        if best is None or score > best[0]:
            best = score, words, hit, made
    if best is None or not best[0] > LEAST_SHARE:
        return None
    score, words, hit, made = best
    position = field.row_position[hit.numpy()]
    numbers = {"weights": words, "rows": int(hit.sum()), "of": field.rows, "first_position": int(position.min())}
    sentence = (
        f"{int(hit.sum())} of {field.rows} rows (positions {position.min()} to {position.max()}) add up their experts "
        f"with {words}: {percent(score)} of the error."
    )
    span = (int(position.min()), int(position.max()) + 1)
    # Weights that are nearly their own would leave no error that shows: such rows do not end the span.
    shown = ((made - field.y).square().sum(1) > errors[hit].mean() * LEAST_SHARE).numpy()
    outside = (field.row_position < span[0]) | (field.row_position >= span[1])
    where = Slice(positions=span if (shown & outside).any() else None)
    return Fingerprint(WRONG_INPUT, score, numbers, sentence, where)


def _candidates(weights: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """(in words, [T, S] weights that might have been read; NaN where there is no such token)."""
    tokens, slots = weights.shape
    for offset in range(1, min(REACH, tokens - 1) + 1):
        none = weights.new_full((offset, slots), float("nan"))
        yield f"the weights of the token {offset} before", torch.cat([none, weights[:-offset]])
        yield f"the weights of the token {offset} behind", torch.cat([weights[offset:], none])
    for order in _orders(slots):
        yield f"their weights in another order of slots ({', '.join(map(str, order))})", weights[:, list(order)]


def _orders(slots: int) -> list[tuple[int, ...]]:
    own = tuple(range(slots))
    if slots <= PERMUTED:
        return [order for order in permutations(own) if order != own]
    exchanged = [(*own[:at], at + 1, at, *own[at + 2 :]) for at in range(slots - 1)]
    rolled = [tuple(np.roll(own, step).tolist()) for step in (1, -1)]
    return [*exchanged, *rolled, own[::-1]]
