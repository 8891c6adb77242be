"""Do blocks of columns stand in each other's place, in a row of any width? Shards gathered in another order."""

from __future__ import annotations

import numpy as np
import torch

from parity.fingerprint.causes import COLUMNS_PERMUTED
from parity.fingerprint.evidence import FITTED, LEAST_SHARE, WRONG_COSINE, WRONG_ERROR, cosines, percent
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.sums import STRIP
from parity.records import Slice

SAMPLE = 64
"""Columns that are looked for, and rows by which they are. A column matches another's 64 values to SAME by chance in
fewer than 1 of 10^30 cases, so that the widest vocabulary has none."""

SAME = WRONG_ERROR / 2
"""Relative error up to which a column is another one: that of a right row."""

FOUND = 0.9
"""Share of the looked for columns that must be others, and of these that must differ from each other."""

SHIFTED = 8
"""Distances by which blocks may have moved and still be listed."""


def columns_moved(field: ErrorField, expert: int | None, rows: np.ndarray) -> Fingerprint | None:
    """Columns that are not the oracle's own but another's, side by side with STRIP - 1 more that moved as far.

    rows: those of `expert`, or all. Sampled columns are looked for among all. score: the moved columns' share of the
    error, times the share of the sample that is found, times what the sources explain of it.
    """
    if len(rows) < 2 * FITTED or field.width < 2 * STRIP:
        return None
    yy, dy, dd = field.sums.columns
    at = torch.from_numpy(rows)
    if len(rows) < field.rows:
        y, d = field.y[at], field.d[at]
        yy, dy, dd = ((a * b).sum(0).double().numpy() for a, b in ((y, y), (d, y), (d, d)))
    wrong = np.flatnonzero((dd > WRONG_ERROR**2 * yy) & (cosines(yy, dy, dd) < WRONG_COSINE) & (yy > 0))
    lost = float(dd[wrong].sum() / field.energy) if len(wrong) >= STRIP else 0.0
    if lost < LEAST_SHARE:
        return None
    some = at[torch.linspace(0, len(at) - 1, min(SAMPLE, len(at))).long()]
    x, y = field.x[some], field.y[some]
    unit = torch.nn.functional.normalize(y, dim=0)
    picked = wrong[np.unique(np.linspace(0, len(wrong) - 1, min(SAMPLE, len(wrong))).astype(int))]
    source = (torch.nn.functional.normalize(x[:, picked], dim=0).T @ unit).argmax(1).numpy()
    left = (x[:, picked] - y[:, source]).square().sum(0)
    found = (left <= SAME**2 * y[:, source].square().sum(0)).numpy() & (source != picked)
    if found.mean() < FOUND or len(np.unique(source[found])) < FOUND * found.sum():
        return None
    if not _beside(x, y, picked[found], source[found]):
        return None
    # The score is that of all rows, read from the sampled columns.
    columns, sources = picked[found], source[found]
    rest = float((field.x[at][:, columns] - field.y[at][:, sources]).square().sum()) / max(
        float(dd[columns].sum()), 1e-30
    )
    score = lost * float(found.mean()) * max(1 - rest, 0.0)
    distances, counts = np.unique(sources - columns, return_counts=True)
    order = np.argsort(-counts)[:SHIFTED]
    first, last = int(wrong[0]), int(wrong[-1]) + 1
    numbers = {
        "moved": len(wrong),
        "of": field.width,
        "columns": [first, last],
        "distances": distances[order].tolist() if len(distances) <= SHIFTED else None,
        "examples": list(zip(columns.tolist(), sources.tolist(), strict=True))[:SHIFTED],
        "expert": expert,
    }
    of = "" if expert is None else f" of expert {expert}"
    sentence = (
        f"{len(wrong)} of {field.width} columns{of} ({first} to {last - 1}) hold other columns, each another: column "
        f"{columns[0]} holds column {sources[0]}. {percent(score)} of the error."
    )
    where = Slice(
        experts=None if expert is None else (expert,),
        columns=(first, last) if last - first <= field.width - STRIP else None,
    )
    return Fingerprint(COLUMNS_PERMUTED, min(score, 1.0), numbers, sentence, where)


def _beside(x: torch.Tensor, y: torch.Tensor, columns: np.ndarray, source: np.ndarray) -> bool:
    """Whether most columns moved in blocks of at least STRIP: the nearest STRIP - 1 on one side moved as far."""
    reach, width = np.arange(1, STRIP), x.shape[1]
    beside = np.zeros((2, len(columns)), bool)
    for side, sign in enumerate((1, -1)):
        here, there = (np.clip(n[:, None] + sign * reach, 0, width - 1) for n in (columns, source))
        left = (x[:, here] - y[:, there]).square().sum(0)
        beside[side] = (left <= SAME**2 * y[:, there].square().sum(0)).numpy().mean(1) >= LEAST_SHARE
    return bool(beside.any(0).mean() >= LEAST_SHARE)
