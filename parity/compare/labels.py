"""What is each row of a compared pair: which token, which expert, and may it be judged like the others?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from parity.metrics import of_slot


@dataclass(frozen=True)
class RowLabels:
    """Labels of the N flattened rows of a pair: one a token, or one a (token, slot) pair.

    request: [N] str. position: [N] int64. slot, expert, number: [N], -1 where a row has none; `number` is the row's
        place inside its expert in the SUT's launch.
    aside: [N] bool, the token was routed otherwise by a near-tie here or upstream: judged apart, against its own floor.
    excluded: [N] bool, without a counterpart on the other side: not compared, counted.
    context: [N], equal for rows at the end of the same tokens (parity/metrics/repeats.py); 0 where the tokens are not
        known.
    """

    request: NDArray[np.str_]
    position: NDArray[np.int64]
    phase: NDArray[np.str_]
    slot: NDArray[np.int64]
    expert: NDArray[np.int64]
    number: NDArray[np.int64]
    aside: NDArray[np.bool_]
    excluded: NDArray[np.bool_]
    context: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, index: NDArray) -> RowLabels:
        return RowLabels(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def join(parts: Sequence[RowLabels]) -> RowLabels:
        """Labels of several requests, one after the other."""
        return RowLabels(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(RowLabels)))

    def words(self, row: int, *, several: bool = False) -> str:
        """`position 412, expert 3, its row 128`; the request besides where there are several, here or by `several`."""
        parts = [f"position {self.position[row]}"]
        if self.expert[row] >= 0:
            parts.append(f"expert {self.expert[row]}")
            parts.append(f"its row {self.number[row]}" if self.number[row] >= 0 else f"slot {self.slot[row]}")
        if several or len(set(self.request.tolist())) > 1:
            parts.insert(0, f"request {str(self.request[row])!r}")
        return ", ".join(parts)


def label_rows(
    *,
    position: NDArray,
    phase: NDArray | str = "prefill",
    request: str = "",
    slots: int | None = None,
    expert: NDArray | None = None,
    number: NDArray | None = None,
    aside: NDArray | None = None,
    excluded: NDArray | None = None,
    context: NDArray[np.uint64] | None = None,
) -> RowLabels:
    """Labels of a canonical tensor's rows, flattened.

    position: [T]; phase: [T] or one for all; slots: S of a [T, S, ...] tensor, None of a [T, ...] one.
    expert, number: [T, S] or None. aside, context: [T] or None. excluded: [T, S] or [T] or None.
    """
    tokens, per_token = len(position), slots or 1
    rows = tokens * per_token

    def spread(values: NDArray | None, missing, dtype) -> NDArray:
        if values is None:
            return np.full(rows, missing, dtype)
        values = np.asarray(values)
        return (np.repeat(values, per_token) if values.ndim == 1 else values.reshape(-1)).astype(dtype)

    slot = np.tile(np.arange(per_token), tokens) if slots else np.full(rows, -1)
    of_row = spread(context, 0, np.uint64)
    phases = np.full(tokens, phase) if isinstance(phase, str) else np.asarray(phase)
    return RowLabels(
        request=np.full(rows, request),
        position=spread(np.asarray(position), 0, np.int64),
        phase=np.repeat(phases, per_token),
        slot=slot,
        expert=spread(expert, -1, np.int64),
        number=spread(number, -1, np.int64),
        aside=spread(aside, False, bool),
        excluded=spread(excluded, False, bool),
        context=of_slot(of_row, slot) if slots else of_row,
    )
