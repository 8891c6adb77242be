"""Is it noise? How the errors of all sites are spread over their floors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.records import Summary
from parity.report.plots.style import BLUE, INK, VERMILION, Picture, empty, figure, finish, plain_ticks
from parity.report.text import count, times

LEAST = 1e-3
"""Scores below it, 0 (bitwise equal) included, are counted in one bin left of it."""

_BINS = 6
"""A decade."""


def draw_score_distribution(panels: Sequence[tuple[str, Summary]]) -> Picture:
    """Histogram, a panel each: the worst slice of each kind of each site, in multiples of its gate; the gate at 1.

    Scores that are not finite are counted in the last bin, slices without a floor not at all: the title says how many.
    """
    scores = [(name, _scores(summary), _without(summary)) for name, summary in panels]
    if not any(len(found) for _, found, _ in scores):
        total = sum(without for _, _, without in scores)
        return empty("No slice has a floor to be held against", f"{count(total, 'worst slice')} measured, none judged.")
    top = max([10.0, *(float(f[np.isfinite(f)].max(initial=0.0)) for _, f, _ in scores)])
    # The gate is an edge, so that no bin holds slices of both sides; one bin more on the right for what is not finite.
    numbers = np.arange(round(_BINS * np.log10(LEAST)) - 1, int(np.ceil(_BINS * np.log10(top))) + 2)
    edges = 10.0 ** (numbers / _BINS)
    low, high = np.sqrt(edges[0] * edges[1]), np.sqrt(edges[-2] * edges[-1])
    made = figure(7.0, 1.0 + 1.8 * len(scores))
    axes = made.subplots(len(scores), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (name, found, without) in zip(axes, scores, strict=True):
        held = np.clip(np.nan_to_num(found, nan=high, posinf=high), low, high)
        held[found < LEAST] = low
        for part, colour, hatch in ((found <= 1, BLUE, ""), (~(found <= 1), VERMILION, "///")):
            # A score of exactly 1 is within the floor, whose bin ends there.
            inside = np.minimum(held[part], np.nextafter(1.0, 0.0)) if colour == BLUE else held[part]
            axis.hist(inside, bins=edges.tolist(), color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
        axis.axvline(1.0, color=INK, linewidth=1.2)
        axis.set_xscale("log")
        beside = f", {without} without a floor" if without else ""
        words = f"{name}: {int((found > 1).sum())} of {count(len(found), 'slice')} over{beside}"
        axis.set_title(words, fontsize=9, loc="left", parse_math=False)
        axis.set_ylabel("number of slices", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_yscale("log")  # one slice among thousands is to be seen
        axis.set_ylim(bottom=0.5)
        plain_ticks(axis.yaxis)
        plain_ticks(axis.xaxis)
    infinite = "; last bin: not finite, or missing" if any(not np.isfinite(f).all() for _, f, _ in scores) else ""
    axes[-1].set_xlabel(
        "worst slice of each kind of each site, in multiples of its gate (line: the gate)\n"
        f"first bin: below {LEAST:g}, or bitwise equal{infinite}",
        fontsize=8,
    )
    title = _message(scores)
    return finish(made, title, f"{title}. Histogram of {sum(len(f) for _, f, _ in scores)} scores.")


def _scores(summary: Summary) -> np.ndarray:
    """Every score; a faulty site without any (not finite, of another shape, missing) counts as one infinite score."""
    found: list[float] = []
    for record in summary.comparisons:
        scores = [s.over_floor for s in record.worst if s.over_floor is not None]
        found += scores or ([float("inf")] if record.verdict.faulty else [])
    return np.array(found, np.float64)


def _without(summary: Summary) -> int:
    return sum(s.over_floor is None for r in summary.comparisons if not r.verdict.faulty for s in r.worst)


def _message(scores: Sequence[tuple[str, np.ndarray, int]]) -> str:
    everything = np.concatenate([found for _, found, _ in scores])
    over = int((~(everything <= 1)).sum())
    if not over and not everything.any():
        return f"All {count(len(everything), 'slice')} equal the oracle's bit for bit"
    if not over:
        total, worst = count(len(everything), "worst slice"), times(everything.max())
        return f"All {total} lie within the floor, the worst at {worst} of its gate"
    within = np.sort(everything[everything <= 1])
    worst = everything[np.isfinite(everything)].max(initial=0.0)
    apart = everything[(everything > 1) & np.isfinite(everything)]
    finite = np.isfinite(everything).all()
    size = f", up to {times(worst)} times" if worst > 1 else ""
    size += "" if finite else f"{' and' if size else ','} {int((~np.isfinite(everything)).sum())} not finite or missing"
    gap = (
        "; all others are equal bit for bit"
        if len(within) and not within[-1]
        else f"; between {times(within[-1])} and {times(apart.min())} lies nothing"
        if len(within) and len(apart) and apart.min() > 2
        else ""
    )
    return f"{over} of {count(len(everything), 'worst slice')} lie over the floor{size}{gap}"
