"""Does the error depend on the position? Error along the sequence, with the boundaries of chunks and phases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from parity.fingerprint import ReducedField
from parity.report.plots.style import BLUE, GREY, INK, VERMILION, Picture, empty, figure, finish, plain_ticks
from parity.report.text import count, listed_names

MOST_FIELDS = 5
"""Panels of one figure."""

STANDS_OUT = 3.0
"""The worst row of a position is drawn as a dot of its own from three times the typical row's error on; clean rows of
one stage differ by a factor of 2."""

GROWS = 2.0
"""The last quarter's median over the first's from which the message says that error grows."""

JUMPS = 3 * GROWS
"""The last quarter's median over the first few positions' from which the message says that error begins small; the same
as for a launch boundary, far over the factor of 2 by which clean rows of one stage differ."""

_MOST_BOUNDARIES = 64


def draw_position_curve(fields: Sequence[ReducedField]) -> Picture:
    """A panel a field: the median row of each position as a line, a worst row that stands out as a dot; launches as
    vertical lines.

    At most five fields. Positions whose error is 0 (bitwise equal) stand at the bottom of the logarithmic axis.
    """
    held = [field for field in fields if len(field.position)][:MOST_FIELDS]
    if not held:
        return empty("No position to draw", "None of the fields has a row.")
    values = np.concatenate([part for field in held for part in (field.position_median, field.position_worst)])
    positive = values[np.isfinite(values) & (values > 0)]
    high = float(positive.max(initial=1e-9)) * 2
    low = max(float(positive.min(initial=high / 10)) / 2, high * 1e-6)
    made = figure(8.0, 1.6 + 1.6 * len(held))
    axes = made.subplots(len(held), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for axis, field in zip(axes, held, strict=True):
        _draw(axis, field, low, high)
        axis.set_title(field.name, fontsize=9, loc="left", parse_math=False)
        axis.tick_params(which="both", labelsize=8)
    axes[0].set_yscale("log")
    axes[0].set_ylim(low / 1.3, high * 1.3)
    for axis in axes:
        plain_ticks(axis.yaxis)
    axes[-1].set_xlabel("position in the sequence (tokens)", fontsize=8)
    made.supylabel("relative error of a row\n|sut - oracle| / |oracle|", fontsize=8)
    handles = {handle.get_label(): handle for axis in axes for handle in axis.get_legend_handles_labels()[0]}
    made.legend(handles=_keys(handles), fontsize=7, loc="outside lower center", ncols=5, frameon=False)
    title = _message(held)
    first, last = int(held[0].position[0]), int(held[0].position[-1])
    return finish(made, title, f"{title}. {count(len(held), 'curve')} from position {first} to {last}.")


def _draw(axis: Axes, field: ReducedField, low: float, high: float) -> None:
    _mark_launches(axis, field)
    median, worst = _clip(field.position_median, low, high), _clip(field.position_worst, low, high)
    median = np.where(np.isfinite(field.position_median), median, np.nan)
    # A bin holds its value up to where the next begins; the last one is as wide as the one before it.
    last = field.position[-1] + (field.position[-1] - field.position[-2] if len(field.position) > 1 else 1)
    axis.step([*field.position, last], [*median, median[-1]], where="post", color=BLUE, linewidth=1.4, label=_MEDIAN)
    finite = np.isfinite(field.position_worst)
    usual = float(np.nanmedian(median)) if finite.any() else 0.0
    apart = finite & (worst > STANDS_OUT * np.maximum(median, usual))
    if apart.any():
        axis.plot(field.position[apart], worst[apart], "D", color=VERMILION, markeredgecolor=INK, markeredgewidth=0.3,
                  markersize=3, label=_WORST)  # fmt: skip
    bad = ~finite
    if bad.any():
        axis.plot(field.position[bad], np.full(int(bad.sum()), high), "x", color=INK, markersize=4, label=_BAD)


_MEDIAN, _WORST, _BAD, _CHUNK, _DECODE = (
    "median row", "worst row, where it stands out", "not finite", "a prefill chunk begins", "decode",
)  # fmt: skip


def _keys(shown: dict[object, Line2D | Patch]) -> list[Line2D | Patch]:
    """Keys of what is drawn, in one order."""
    return [shown[label] for label in (_MEDIAN, _WORST, _BAD, _CHUNK, _DECODE) if label in shown]


def _clip(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.nan_to_num(values, nan=high, posinf=high), low, high)


def _mark_launches(axis: Axes, field: ReducedField) -> None:
    launches = [launch for launch in field.launches if launch[0] > field.position[0]]
    decoded = [at for at, phase in launches if phase == "decode"]
    chunks = [at for at, phase in launches if phase != "decode"]
    if len(chunks) <= _MOST_BOUNDARIES:
        for at in chunks:
            axis.axvline(at, color=GREY, linewidth=0.8, label=_CHUNK)
    if decoded:
        axis.axvspan(decoded[0], int(field.position[-1]) + 1, color=GREY, alpha=0.2, label=_DECODE)


def _message(fields: Sequence[ReducedField]) -> str:
    field = fields[0]
    names = listed_names([one.name for one in fields])
    if any(not np.isfinite(one.position_worst).all() for one in fields):
        bad = next(one for one in fields if not np.isfinite(one.position_worst).all())
        hit = bad.position[~np.isfinite(bad.position_worst)]
        at = int(hit[0])
        if _to_the_end(bad):
            return f"{bad.name}: values are not finite from position {at} on"
        where = f"position {at}" if len(hit) == 1 else f"{len(hit)} positions from {at} to {int(hit[-1])}"
        return f"{bad.name}: values are not finite at {where}"
    if not any(one.position_worst.any() for one in fields):
        return f"{names}: every row equals the oracle's"
    jump = _jump(field)
    if jump is not None:
        at, ratio = jump
        return f"{field.name}: error changes {ratio:.2g}-fold at position {at}, where a launch begins"
    quarter = max(len(field.position) // 4, 1)
    first, last = np.median(field.position_median[:quarter]), np.median(field.position_median[-quarter:])
    if first > 0 and last / first >= GROWS and len(field.position) >= 8:
        return f"{field.name}: error grows {last / first:.2g}-fold from the first quarter of the positions to the last"
    begin = _rise(field)
    if begin is not None:
        low, half = begin
        return (
            f"{field.name}: error is {low:.2g} at first and {last:.2g} at the end, half of it from position {half} on"
        )
    spread = field.position_worst.max() / max(float(np.median(field.position_worst)), 1e-30)
    if spread >= 10:
        high = np.flatnonzero(field.position_worst >= field.position_worst.max() / 3)
        first, last = int(field.position[high[0]]), int(field.position[high[-1]])
        where = (
            f"the row at position {first} errs" if first == last else f"single rows from position {first} to {last} err"
        )
        worst, usual = field.position_worst.max(), np.median(field.position_median)
        return f"{field.name}: {where} by up to {worst:.2g}, the typical row by {usual:.2g}"
    return f"{names}: error is even along the sequence, median {np.median(field.position_median):.2g}"


def _rise(field: ReducedField) -> tuple[float, int] | None:
    """Least error of the first eighth and the position from which half of the last quarter's is reached, where the rise
    is by more than JUMPS: a rotation that starts at position 0 turns within some tokens. None where it is even."""
    n = len(field.position)
    if n < 16:
        return None
    start = field.position_median[: n // 8]
    last = float(np.median(field.position_median[-(n // 4) :]))
    rising = float(start[0]) <= 1.5 * float(start.min())
    if not rising or not last or last < JUMPS * float(np.median(start[: max(n // 64, 2)])):
        return None
    reached = int(np.flatnonzero(field.position_median >= last / 2)[0])
    return float(start.min()), int(field.position[reached])


def _to_the_end(field: ReducedField) -> bool:
    bad = ~np.isfinite(field.position_worst)
    return bool(bad[int(bad.argmax()) :].all())


def _jump(field: ReducedField) -> tuple[int, float] | None:
    """The launch boundary at which the median error of the 16 positions after differs most from the 16 before."""
    best: tuple[int, float] | None = None
    for at, _ in field.launches:
        n = int(np.searchsorted(field.position, at))
        if n < 4 or n + 4 > len(field.position):
            continue
        before, after = (
            np.median(field.position_median[max(n - 16, 0) : n]),
            np.median(field.position_median[n : n + 16]),
        )
        low, high = sorted((float(before), float(after)))
        ratio = high / low if low > 0 else (float("inf") if high > 0 else 1.0)
        if ratio >= JUMPS and np.isfinite(ratio) and (best is None or ratio > best[1]):
            best = (at, ratio)
    return best
