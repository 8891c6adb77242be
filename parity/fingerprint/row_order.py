"""Do the rows stand in another order? Each wrong row is looked for among the oracle's rows."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import ROWS_PERMUTED, ROWS_SHIFTED
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, percent, reads_values, share_explained, wrong_rows
from parity.fingerprint.field import ErrorField
from parity.fingerprint.neighbours import SHIFTS, rows_of_neighbours
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.sums import squared_distance, squared_norm
from parity.records import Slice

SAMPLE = 256
"""Wrong rows that are looked for, and columns by which they are, evenly spread; the share of found ones is then known
to 3 % (binomial, 1 sigma)."""


@reads_values
def detect_row_order(field: ErrorField) -> Fingerprint | None:
    """Find rows that are other rows of the oracle: shifted by a constant number of rows, or permuted.

    Needs rows that tell each other apart: FITTED columns. score: for a shift, the share of the error explained by the
    shifted oracle; for a permutation, the wrong rows' share of the error times what their counterparts explain of it.
    """
    wrong = np.flatnonzero(wrong_rows(field))
    if not len(wrong) or field.width < FITTED:
        return None
    if len(wrong) < 2:
        return rows_of_neighbours(field, wrong)
    return _shift(field, wrong) or rows_of_neighbours(field, wrong) or _permutation(field, wrong)


def _shift(field: ErrorField, wrong: np.ndarray) -> Fingerprint | None:
    """All rows moved by the same number of tokens."""
    x, y, d = (t.view(field.tokens, -1) for t in (field.x, field.y, field.d))
    if field.tokens < 3:
        return None
    best = (LEAST_SHARE, 0)
    # Which shift: judged on some tokens and columns. Whether it explains the field: on all.
    step = -(-x.shape[1] // SAMPLE)
    probe = torch.linspace(0, field.tokens - 1, min(SAMPLE, field.tokens)).long().unique()
    some_x, some_y = x[:, ::step][probe], y[:, ::step]
    some_d = (some_x - some_y[probe]).square().sum(1).double()
    total = max(float(some_d.sum()), 1e-300)
    for by in (n for size in range(1, min(SHIFTS, field.tokens - 2) + 1) for n in (size, -size)):
        source = probe - by
        inside = (source >= 0) & (source < field.tokens)
        # A shift keeps most tokens inside: rows that have no source count as they are.
        moved = some_y.index_select(0, source.clamp(0, field.tokens - 1))
        own = torch.linalg.vector_norm(moved.sub_(some_x), dim=1).double().square()
        score = 1 - float(torch.where(inside, own, some_d).sum()) / total
        best = max(best, (score, by), key=lambda pair: pair[0])
    by = best[1]
    if by == 0:
        return None
    moved, source = (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
    rest = squared_distance(x[moved], y[source]) + squared_norm(d[:by] if by > 0 else d[by:])
    score = share_explained(field, rest)
    if score < LEAST_SHARE:
        return None
    if field.slots == 1 and wrong[0] > 2 * abs(by) + 2:
        # From some row on only: detect_row_order says from which.
        return None
    numbers = {"shift": by, "explained": score}
    sentence = (
        f"Each row holds the oracle's row of the token {abs(by)} {'before' if by > 0 else 'after'} it: "
        f"{percent(score)} of the error."
    )
    return Fingerprint(ROWS_SHIFTED, score, numbers, sentence, Slice())


def _permutation(field: ErrorField, wrong: np.ndarray) -> Fingerprint | None:
    sample = wrong[np.unique(np.linspace(0, len(wrong) - 1, min(SAMPLE, len(wrong))).astype(int))]
    step = -(-field.width // SAMPLE)
    x, y = field.x[sample], field.y
    unit = torch.nn.functional.normalize(y[:, ::step], dim=1)
    source = (torch.nn.functional.normalize(x[:, ::step], dim=1) @ unit.T).argmax(1)
    rest = (x - y[source]).square().sum(1)
    found = rest < (1 - LEAST_SHARE) * field.d[sample].square().sum(1)
    origins = source[found].unique()
    if found.sum() < 2 or found.float().mean() < LEAST_SHARE:
        return None
    # A permutation takes each row once; many rows equal to one are leftovers or aliases, not an order. Rows that are
    # equal in the oracle too (one token at several places) have one origin.
    here, there = (_different(t[found][:, ::step]) for t in (x, y[sample]))
    if len(origins) < 0.9 * min(here, there) or here < LEAST_SHARE * there:
        return None
    per_row = field.sums.dd.sum(1)
    explained = float(1 - rest[found].sum() / field.d[sample[found.numpy()]].square().sum())
    score = float(per_row[wrong].sum() / per_row.sum()) * float(found.float().mean()) * explained
    pairs = list(zip(sample[found.numpy()].tolist(), source[found].tolist(), strict=True))
    distant = rows_of_neighbours(field, wrong, sample[found.numpy()], source[found].numpy())
    if distant is not None:
        return distant
    numbers = {
        "wrong_rows": len(wrong),
        "sampled": len(sample),
        "found_elsewhere": int(found.sum()),
        "examples": pairs[:8],
    }
    sentence = (
        f"{int(found.sum())} of {len(sample)} wrong rows looked for are other rows of the oracle, each its own: row "
        f"{pairs[0][0]} holds row {pairs[0][1]}. {percent(score)} of the error."
    )
    tokens = field.row_position[wrong]
    return Fingerprint(
        ROWS_PERMUTED, score, numbers, sentence, Slice(positions=(int(tokens.min()), int(tokens.max()) + 1))
    )


def _different(rows: torch.Tensor) -> int:
    """How many different rows [N, W] has, to three decimals of the largest value."""
    scale = rows.abs().amax().clamp(min=1e-30)
    whole = torch.nan_to_num(rows / scale * 1000).round().to(torch.int16).contiguous().numpy()
    return len({row.tobytes() for row in whole})
