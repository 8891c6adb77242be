"""Does one head err, or all? The spread of each head's rows, from the least error to the largest."""

from __future__ import annotations

import numpy as np

from parity.fingerprint import ReducedField
from parity.report.plots.style import BLUE, INK, VERMILION, Picture, empty, figure, finish
from parity.report.text import count, spans

STANDS_OUT = 3.0
"""A head's median is called apart at three times the median of all heads: the message only says what is seen; whether
it is a fault is the floor's to judge. Clean heads of the fixture models lie within 1.5 times of each other."""

_MOST_LABELLED = 40


def draw_heads(field: ReducedField) -> Picture:
    """One bar a head: its median over rows, a box for the middle half, a line from the least to the largest row."""
    if not len(field.heads):
        return empty(f"{field.name} has no heads", "The stage's axes name no head.")
    least, lower, median, upper, most = (np.array(part) for part in field.heads.T)
    finite = field.heads[np.isfinite(field.heads)]
    top = max(float(finite.max(initial=0.0)), field.noise or 0.0, 1e-12) * 1.12
    least, lower, median, upper, most = (np.minimum(part, top) for part in (least, lower, median, upper, most))
    apart = _apart(field)
    at = np.arange(len(median))
    made = figure(min(max(6.5, 0.35 * len(at) + 2), 13.0), 3.6)
    axis = made.subplots()
    colours = [VERMILION if n in apart else BLUE for n in at]
    hatches = ["///" if n in apart else "" for n in at]
    axis.bar(at, median, width=0.7, color=colours, hatch=hatches, edgecolor="white", label="median of the rows")
    axis.bar(
        at, upper - lower, bottom=lower, width=0.3, facecolor="none", edgecolor=INK, linewidth=0.9, label="middle half"
    )
    axis.vlines(at, least, most, color=INK, linewidth=0.8, label="least to largest")
    if field.noise is not None:
        axis.axhline(field.noise, color=INK, linestyle="--", linewidth=1)
        axis.annotate("clean row", (1, field.noise), xycoords=("axes fraction", "data"), fontsize=8, xytext=(3, -3),
                      textcoords="offset points")  # fmt: skip
    lost = [int(n) for n in at if not np.isfinite(field.heads[n, 4])]
    axis.plot(lost, [top] * len(lost), "x", color=INK, markeredgewidth=2, label="not finite" if lost else None)
    axis.set_ylim(0, top * 1.05)
    step = 1 if len(at) <= _MOST_LABELLED else 8
    axis.set_xticks(at[::step], [str(n) for n in at[::step]], fontsize=8)
    axis.set_xlabel("head", fontsize=8)
    axis.set_ylabel("relative error of a row\n|sut - oracle| / |oracle|", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7, loc="upper right", bbox_to_anchor=(1, 1.12), ncols=4, frameon=False)
    title = _message(field, apart, lost)
    return finish(made, title, f"{title}. Bars of {count(len(at), 'head')} over {count(field.rows, 'row')}.")


def _apart(field: ReducedField) -> list[int]:
    """Heads whose median error stands out from the other heads'."""
    median = field.heads[:, 2]
    usual = float(np.quantile(median, 0.5, method="lower"))
    if len(median) < 2:
        return []
    return np.flatnonzero((median > STANDS_OUT * usual) & (median > 0)).tolist()


def _message(field: ReducedField, apart: list[int], lost: list[int]) -> str:
    median = field.heads[:, 2]
    if lost:
        one = len(lost) == 1
        which = f"head{'' if one else 's'} {spans(lost)} of {len(median)} {'holds' if one else 'hold'}"
        return f"{field.name}: {which} values that are not finite"
    if not field.heads.any():
        return f"{field.name}: all {count(len(median), 'head')} equal the oracle's"
    if apart:
        usual = float(np.median([m for n, m in enumerate(median) if n not in apart]))
        ratio = max(median[apart]) / usual if usual > 0 else float("inf")
        size = f"{ratio:.3g} times the error of the others" if np.isfinite(ratio) else "the others are exact"
        one = len(apart) == 1
        which = f"head{'' if one else 's'} {spans(apart)} of {len(median)}"
        return f"{field.name}: {which} {'stands' if one else 'stand'} out, {size}"
    if len(median) == 1:
        return f"{field.name}: one head, its median error {median[0]:.2g}"
    return f"{field.name}: no head stands out, medians from {median.min():.2g} to {median.max():.2g}"
