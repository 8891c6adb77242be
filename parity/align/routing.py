"""Did both sides send each token to the same experts, in which order, and how near was the decision?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity.errors import ShapeError


@dataclass(frozen=True)
class Routing:
    """Two sides' choice of experts for the same T tokens in one layer.

    slot: [T, S], the SUT's slot that holds the expert of the oracle's slot s, -1 where the SUT did not choose it.
    source: the same with the SUT's left-over slots in the places of -1, so that it is a permutation of the slots.
    overlap: [T], experts in common. flipped: [T], the sets differ.
    margin: [T], how far the router's scores must move to make the SUT's choice right: the oracle's largest logit among
        the experts the SUT left out, less its smallest among those the SUT took instead. 0 where nothing flipped, NaN
        where the oracle's logits are not known, inf where no score explains the choice (an id twice or out of range).
    """

    oracle_ids: NDArray[np.int64]
    sut_ids: NDArray[np.int64]
    slot: NDArray[np.int64]
    source: NDArray[np.int64]
    overlap: NDArray[np.int64]
    flipped: NDArray[np.bool_]
    margin: NDArray[np.float64]

    @property
    def top_k(self) -> int:
        return self.slot.shape[1]

    @staticmethod
    def join(parts: Sequence[tuple[Routing, NDArray[Any]]]) -> Routing:
        """The tokens under each mask, or at each index, one request after the other."""
        return Routing(*(np.concatenate([getattr(r, f.name)[mask] for r, mask in parts]) for f in fields(Routing)))

    def reorder(self, sut: torch.Tensor) -> torch.Tensor:
        """The SUT's [T, S, ...] with slots in the oracle's order; where `matched` is False, what was left over."""
        if bool((self.source == np.arange(self.top_k)).all()):
            return sut
        tokens = torch.arange(len(self.slot), device=sut.device)[:, None]
        return sut[tokens, torch.from_numpy(self.source).to(sut.device)]

    def reorder_rows(self, values: NDArray) -> NDArray:
        """The same for a numpy array [T, S]."""
        return np.take_along_axis(values, self.source, axis=1)

    @property
    def matched(self) -> NDArray[np.bool_]:
        """[T, S]: the (token, expert) pairs of the oracle that the SUT computed as well."""
        return self.slot >= 0


def route(*, oracle_ids: NDArray, sut_ids: NDArray, router_logits: NDArray | None = None) -> Routing:
    """Match the chosen experts of the same tokens.

    oracle_ids, sut_ids: [T, S] integers, in any order of slots. router_logits: [T, E], the oracle's.
    Raises ShapeError when the shapes differ.
    """
    a, b = np.asarray(oracle_ids, np.int64), np.asarray(sut_ids, np.int64)
    if a.shape != b.shape or a.ndim != 2:
        raise ShapeError(
            place="expert ids of both sides",
            expected="two arrays of one shape [T, S]",
            found=f"oracle {a.shape}, sut {b.shape}",
            next_step="Both sides must choose the same number of experts (top_k) for the same tokens.",
        )
    slot, taken = np.full(a.shape, -1), np.zeros(b.shape, bool)
    for s in range(a.shape[1]):
        # An id that was matched is used up: one that a faulty router emits twice matches once.
        same = (a[:, s : s + 1] == b) & ~taken
        hit = same.any(1)
        slot[hit, s] = same[hit].argmax(1)
        taken[hit, slot[hit, s]] = True
    source = slot.copy()
    source[slot < 0] = np.nonzero(~taken)[1]  # row by row as many slots are left over as have no counterpart
    overlap = (slot >= 0).sum(1)
    flipped = (overlap < a.shape[1]) | ~taken.all(1)
    margin = np.zeros(len(a))
    if flipped.any():
        margin[flipped] = (
            np.nan
            if router_logits is None
            else _margin(
                a[flipped],
                b[flipped],
                slot[flipped] < 0,
                ~taken[flipped],
                np.asarray(router_logits)[flipped].astype(np.float64),
            )
        )
    return Routing(a, b, slot, source, overlap, flipped, margin)


def _margin(a: NDArray, b: NDArray, left_out: NDArray, instead: NDArray, logits: NDArray) -> NDArray[np.float64]:
    experts = logits.shape[1]
    explicable = instead.any(1) & ((b >= 0) & (b < experts)).all(1)
    # An id twice is a choice that no score explains, even where another expert was exchanged besides.
    explicable &= (np.diff(np.sort(b, axis=1), axis=1) > 0).all(1)
    of_a = np.where(left_out, np.take_along_axis(logits, a.clip(0, experts - 1), 1), -np.inf).max(1, initial=-np.inf)
    of_b = np.where(instead, np.take_along_axis(logits, b.clip(0, experts - 1), 1), np.inf).min(1, initial=np.inf)
    return np.where(explicable, of_a - of_b, np.inf)
