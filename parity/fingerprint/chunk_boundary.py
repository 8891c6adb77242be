"""Does the error begin at one position and is absent before? What a prefill chunk does not hand to the next."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.attend import attention_of
from parity.fingerprint.causes import CHUNK_BOUNDARY
from parity.fingerprint.evidence import UNRELATED, percent, power_of_two_steps, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

STEP = 5.0
"""Relative error after the boundary over that before it, medians: noise of one recipe keeps a stage's rows within a
factor of 2 of each other, and an error that grows with position has no step at all."""

AROUND = 16
"""Rows looked at on either side of the step itself: a growing error is much the same on both."""

LEAST_ROWS = 4


@reads_values
def detect_chunk_boundary(field: ErrorField) -> Fingerprint | None:
    """Find the position before which every token is at the noise, and from which on the tokens are far over it.

    Silent where decode begins at that position: `phase.py` tells of it.
    The position is a boundary of launches where these are known, else a multiple of a power of two from 16 up. score:
    half of the later tokens' share of the error; for `attn.context` with its inputs at hand, the share that attention
    over each chunk's own keys explains, if that is more.
    """
    tokens = field.tokens
    if tokens < 2 * LEAST_ROWS:
        return None
    lost = field.sums.dd.sum(1).reshape(tokens, field.slots).sum(1)
    norm = field.sums.yy.sum(1).reshape(tokens, field.slots).sum(1)
    error = np.sqrt(np.divide(lost, norm, out=np.zeros(tokens), where=norm > 0))
    position, launch = field.row_position[:: field.slots], field.row_launch[:: field.slots]
    at = _step(error)
    if at is None:
        return None
    if field.phase is not None and field.phase[at] != field.phase[at - 1]:
        return None  # decode begins there: another kernel, and no chunk's end
    start = int(position[at])
    known = field.launch is not None and len(np.unique(launch)) > 1
    chunks = power_of_two_steps(start)
    if (known and launch[at] == launch[at - 1]) or (not known and not chunks):
        return None
    length = _chunk_length(position, launch) if known else None
    score, cause_numbers = UNRELATED * lost[at:].sum() / lost.sum(), {}
    for size in [length] if length else [start, *chunks[:4]]:
        explained = _explained_by_chunks(field, size)
        if explained is not None and explained > score:
            score, cause_numbers = explained, {"attention_within_chunks_of": size}
    before, after = float(np.median(error[:at])), float(np.median(error[at:]))
    numbers = {
        "first_position": start,
        "error_before": before,
        "error_after": after,
        "launch_boundary": bool(known),
        "compatible_chunks": [length] if length else chunks,
        **cause_numbers,
    }
    at_what = f"where chunk {int(launch[at])} begins" if known else f"a multiple of {chunks[0]}"
    sentence = (
        f"Up to position {start - 1} the relative error is {before:.2g}, from {start} on ({at_what}) "
        f"it is {after:.2g}: "
        f"something is not handed from one chunk to the next ({percent(lost[at:].sum() / lost.sum())} of the error)."
    )
    return Fingerprint(CHUNK_BOUNDARY, float(score), numbers, sentence, Slice(positions=(start, int(position[-1]) + 1)))


def _step(error: np.ndarray) -> int | None:
    """The first row of the wrong part; None without a clean step."""
    floor = np.maximum.accumulate(error)
    jump = error[LEAST_ROWS:] / np.maximum(floor[LEAST_ROWS - 1 : -1], 1e-12)
    rising = np.flatnonzero((jump >= 2) & (error[LEAST_ROWS:] > 0)) + LEAST_ROWS
    for at in rising[:64].tolist():
        before, after = error[:at], error[at:]
        near = np.median(after[:AROUND]), np.quantile(before[-AROUND:], 0.9)
        # Against an emulation most rows are right to the last bit: a step from nothing to nothing is none.
        least = 0.1 * np.median(after[after > 0]) if (after > 0).any() else np.inf
        if len(after) < LEAST_ROWS or not near[0] > least:
            continue
        if np.median(after) >= STEP * np.median(before) and near[0] >= STEP * near[1]:
            return at
    return None


def _chunk_length(position: np.ndarray, launch: np.ndarray) -> int:
    """Tokens of the first launch."""
    return int((launch == launch[0]).sum()) if len(position) else 0


def _explained_by_chunks(field: ErrorField, size: int) -> float | None:
    """Share explained by attention over each chunk's own keys; None where the inputs are not at hand."""
    attention = attention_of(field)
    if attention is None or size < 1:
        return None
    at = torch.from_numpy(attention.positions)[:, None]
    return attention.explained(hidden=attention.future() | (torch.arange(len(attention.k)) < at // size * size))
