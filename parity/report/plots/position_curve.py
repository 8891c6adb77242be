"""Does the error depend on the position? Error along the sequence, with the boundaries of chunks and phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from parity.fingerprint import ReducedField
from parity.report.plots.style import BLUE, GREEN, GREY, INK, ORANGE, VERMILION, Picture, empty, figure, finish
from parity.report.text import count, listed_names

_LOOKS = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (ORANGE, ":"), (INK, "-"))
"""Colour and dash together, so that curves differ in grey."""

GROWS = 2.0
"""The last quarter's median over the first's from which the message says that error grows."""

JUMPS = 3 * GROWS
"""The last quarter's median over the first few positions' from which the message says that error begins small; the same
as for a launch boundary, far over the factor of 2 by which clean rows of one stage differ."""

_MOST_BOUNDARIES = 64


def draw_position_curve(fields: Sequence[ReducedField]) -> Picture:
    """A curve a field: the median row of each position as a line, the worst as a thin one; launches as vertical lines.

    At most five fields. Positions whose error is 0 (bitwise equal) stand at the bottom of the logarithmic axis.
    """
    held = [field for field in fields if len(field.position)][: len(_LOOKS)]
    if not held:
        return empty("No position to draw", "None of the fields has a row.")
    values = np.concatenate([part for field in held for part in (field.position_median, field.position_worst)])
    positive = values[np.isfinite(values) & (values > 0)]
    high = float(positive.max(initial=1e-9)) * 2
    low = max(float(positive.min(initial=high / 10)) / 2, high * 1e-6)
    made = figure(8.0, 3.8)
    axis = made.subplots()
    _mark_launches(axis, held)
    for field, (colour, dash) in zip(held, _LOOKS, strict=False):
        style: dict[str, Any] = {"color": colour, "drawstyle": "steps-post"}
        axis.plot(field.position, _clip(field.position_worst, low, high), linewidth=0.6, alpha=0.7, **style)
        axis.plot(
            field.position,
            _clip(field.position_median, low, high),
            linestyle=dash,
            linewidth=1.6,
            label=field.name,
            **style,
        )
        bad = ~np.isfinite(field.position_worst)
        axis.plot(field.position[bad], np.full(int(bad.sum()), high), "x", color=INK, markeredgewidth=2)
    axis.set_yscale("log")
    axis.set_ylim(low / 1.3, high * 1.3)
    axis.set_xlabel("position in the sequence (tokens)", fontsize=8)
    axis.set_ylabel("relative error of a row\n(thick: median, thin: worst)", fontsize=8)
    axis.tick_params(which="both", labelsize=8)
    axis.legend(fontsize=7, loc="best", framealpha=0.9)
    title = _message(held)
    first, last = int(held[0].position[0]), int(held[0].position[-1])
    return finish(made, title, f"{title}. {count(len(held), 'curve')} from position {first} to {last}.")


def _clip(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.nan_to_num(values, nan=high, posinf=high), low, high)


def _mark_launches(axis: Axes, fields: Sequence[ReducedField]) -> None:
    launches = sorted({launch for field in fields for launch in field.launches if launch[0] > field.position[0]})
    decoded = [at for at, phase in launches if phase == "decode"]
    chunks = [at for at, phase in launches if phase != "decode"]
    if len(chunks) <= _MOST_BOUNDARIES:
        for number, at in enumerate(chunks):
            axis.axvline(at, color=GREY, linewidth=0.8, label="a prefill chunk begins" if number == 0 else None)
    if decoded:
        axis.axvspan(decoded[0], int(fields[0].position[-1]) + 1, color=GREY, alpha=0.2, label="decode")


def _message(fields: Sequence[ReducedField]) -> str:
    field = fields[0]
    names = listed_names([one.name for one in fields])
    if any(not np.isfinite(one.position_worst).all() for one in fields):
        bad = next(one for one in fields if not np.isfinite(one.position_worst).all())
        at = int(bad.position[~np.isfinite(bad.position_worst)][0])
        return (
            f"{bad.name}: values are not finite from position {at} on"
            if _to_the_end(bad)
            else f"{bad.name}: not finite at position {at}"
        )
    if not any(one.position_worst.any() for one in fields):
        return f"{names}: every row equals the oracle's"
    jump = _jump(field)
    if jump is not None:
        at, ratio = jump
        return f"{field.name}: error changes {ratio:.2g} times at position {at}, where a launch begins"
    quarter = max(len(field.position) // 4, 1)
    first, last = np.median(field.position_median[:quarter]), np.median(field.position_median[-quarter:])
    if first > 0 and last / first >= GROWS and len(field.position) >= 8:
        return f"{field.name}: error grows {last / first:.2g} times from the first quarter of the positions to the last"
    begin = _rise(field)
    if begin is not None:
        low, half = begin
        return (
            f"{field.name}: error is {low:.2g} at first and {last:.2g} at the end, half of it from position {half} on"
        )
    spread = field.position_worst.max() / max(float(np.median(field.position_worst)), 1e-30)
    if spread >= 10:
        high = np.flatnonzero(field.position_worst >= field.position_worst.max() / 3)
        where = f"at {count(len(high), 'position')}" if len(high) > 1 else "at position"
        where += (
            f" from {field.position[high[0]]} to {field.position[high[-1]]}"
            if len(high) > 1
            else f" {field.position[high[0]]}"
        )
        worst, usual = field.position_worst.max(), np.median(field.position_median)
        return f"{field.name}: single rows err by up to {worst:.2g} {where}, the typical row by {usual:.2g}"
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
