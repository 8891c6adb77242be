"""Is the tensor unrelated to the oracle's at the same magnitude? A weight read in the other order of its axes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from parity.fingerprint.causes import TRANSPOSED
from parity.fingerprint.evidence import LEAST_SHARE, UNRELATED, percent, reads_values, right_rows, share_explained
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.sums import squared_distance, squared_norm
from parity.fingerprint.weight import Projection, projections
from parity.records import Slice

UNCORRELATED = 0.2
"""Cosine below which two tensors count as unrelated: of n independent values it is 1/sqrt(n), 0.1 at a hundred, and
the shares of common structure (a mean, massive channels) stay to be allowed for."""

SAME_SIZE = 4.0
"""Norm ratio, either way, that counts as the same magnitude. A permuted weight keeps its entries, hence its norm; how
much of it the input meets depends on the input's own directions, so a factor of 2 on a side's rms is allowed twice."""

SAMPLE, WORSE = 64, 0.9
"""Rows of a projection on which a weight is tried first, and the share of their error beyond which it is let go; an
energy of that many rows is that of all to 1/8."""


@reads_values
def detect_transposed(field: ErrorField) -> Fingerprint | None:
    """Find an output that is unrelated to the oracle's in every row and of its size.

    Where the weight is known, or solvable from input and output, the weight read in the other order is tried: then the
    score is the share of the error that it explains; else half of the error (that it is not the oracle's is explained).
    """
    yy, dy, dd = (float(a.sum()) for a in field.sums.rows)
    read = explain_by_weight(field, _other_order)
    if read is not None and read > LEAST_SHARE:
        numbers = {"explained_by_other_order": read}
        sentence = (
            f"The weight read in the other order of its axes gives the SUT's tensor: {percent(read)} of the error."
        )
        return Fingerprint(TRANSPOSED, read, numbers, sentence, Slice())
    xx = yy + 2 * dy + dd
    if yy <= 0 or xx <= 0 or field.rows < 2 or field.rows * field.width < 100:
        return None
    cosine, ratio = (yy + dy) / (xx * yy) ** 0.5, (xx / yy) ** 0.5
    right = right_rows(field)
    if abs(cosine) > UNCORRELATED or not 1 / SAME_SIZE <= ratio <= SAME_SIZE or right.mean() > 0.1 or right[0]:
        return None
    numbers = {"cosine": cosine, "norm_ratio": ratio, "explained_by_other_order": read}
    sentence = (
        f"The SUT's tensor has the oracle's size (norm ratio {ratio:.3g}) and nothing else of it "
        f"(cosine {cosine:.3g}), "
        "in all rows: a weight read in another layout, or another input."
    )
    return Fingerprint(TRANSPOSED, UNRELATED, numbers, sentence, Slice())


def explain_by_weight(field: ErrorField, predict: Callable[[Projection], torch.Tensor | None]) -> float | None:
    """Share of the error explained by what `predict` makes of each projection; None without a known weight."""
    known = projections(field)
    if not known:
        return None
    rest = field.energy
    for projection in known:
        some = projection.fewer(SAMPLE)
        predicted = predict(some)
        if predicted is None:
            return None
        # A weight that is wrong is wrong in every row: what makes some rows worse explains none.
        if squared_distance(field.x[some.rows], predicted) > WORSE * squared_norm(field.d[some.rows]):
            continue
        predicted = predict(projection)
        if predicted is None:
            return None
        before = squared_norm(field.d[projection.rows])
        after = squared_distance(field.x[projection.rows], predicted)
        # One expert's weight alone may be the wrong one.
        rest += min(after - before, 0.0)
    return share_explained(field, rest)


def _other_order(projection: Projection) -> torch.Tensor | None:
    outputs, inputs = projection.weight.shape
    # Stored [N, K] and read as [K, N], memory order kept: for a square weight this is the transpose.
    return projection.input @ projection.weight.reshape(inputs, outputs)
