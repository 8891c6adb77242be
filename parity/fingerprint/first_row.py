"""Is token 0 right and every other one wrong? A row stride or leading dimension that is not the buffer's."""

from __future__ import annotations

from parity.fingerprint.causes import FIRST_ROW_RIGHT
from parity.fingerprint.evidence import UNRELATED, percent, reads_values, right_rows, wrong_rows
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

ALMOST_ALL = 0.9
"""Share of the later tokens that must be wrong; a wrong stride can meet the right values by chance."""

LEAST_TOKENS = 8
"""With n tokens a single right one is the first by chance in 1 of n cases of scattered loss."""


@reads_values
def detect_first_row(field: ErrorField) -> Fingerprint | None:
    """Find the first token of the field right and nearly all others not the oracle's at all.

    score: half of the later tokens' share of the error; what they hold is not explained.
    """
    if field.tokens < LEAST_TOKENS:
        return None
    wrong = wrong_rows(field).reshape(field.tokens, field.slots)
    right = right_rows(field).reshape(field.tokens, field.slots)
    share = float(wrong[1:].mean())
    # A zero oracle row has nothing that could be wrong.
    if not right[0].all() or share < ALMOST_ALL or not float(field.y[: field.slots].square().sum()) > 0:
        return None
    lost = field.sums.dd.sum(1).reshape(field.tokens, field.slots).sum(1)
    score = float(UNRELATED * lost[1:].sum() / lost.sum())
    first = int(field.row_position[0])
    yy, _, dd = field.sums.rows
    numbers = {
        "first_error": float((dd[0] / yy[0]) ** 0.5),
        "wrong_share_of_others": share,
        "tokens": field.tokens,
    }
    sentence = (
        f"The token at position {first} is right (relative error {numbers['first_error']:.3g}), "
        f"{percent(share)} of the "
        f"{field.tokens - 1} tokens after it hold something else: only row 0 does not depend on the row stride."
    )
    where = Slice(positions=(first + 1, int(field.row_position[-1]) + 1))
    return Fingerprint(FIRST_ROW_RIGHT, score, numbers, sentence, where)
