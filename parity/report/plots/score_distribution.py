"""Is it noise? How the errors of all sites are spread over their floors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.records import Summary
from parity.report.plots.style import BLUE, INK, VERMILION, Picture, empty, figure, finish
from parity.report.text import count, times

_LOOKS = ((BLUE, ""), (VERMILION, "///"), ("#56B4E9", "..."), ("#CC79A7", "xx"))
LEAST = 1e-3
"""Where a score of 0 (bitwise equal) is counted on the logarithmic axis."""


def draw_score_distribution(panels: Sequence[tuple[str, Summary]]) -> Picture:
    """Histogram, a panel each: the worst slice of each kind of each site, in multiples of its gate; the gate at 1.

    Scores that are not finite are counted in the last bin, slices without a floor not at all: the title says how many.
    """
    scores = [(name, _scores(summary), _without(summary)) for name, summary in panels]
    if not any(len(found) for _, found, _ in scores):
        total = sum(without for _, _, without in scores)
        return empty("No slice has a floor to be held against", f"{count(total, 'worst slice')} measured, none judged.")
    top = max([10.0, *(float(f[np.isfinite(f)].max(initial=0.0)) for _, f, _ in scores)]) * 1.5
    decades = np.log10(top / LEAST)
    edges = np.sort(np.append(np.logspace(np.log10(LEAST), np.log10(top), int(6 * decades)), [LEAST / 1.5, 1.0]))
    made = figure(7.0, 1.0 + 1.8 * len(scores))
    axes = made.subplots(len(scores), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (name, found, without), (colour, hatch) in zip(axes, scores, _LOOKS * len(scores), strict=False):
        held = np.clip(np.nan_to_num(found, nan=top, posinf=top), LEAST, top * 0.999)
        axis.hist(held, bins=edges.tolist(), color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
        axis.axvline(1.0, color=INK, linewidth=1.2)
        axis.set_xscale("log")
        beside = f", {without} without a floor" if without else ""
        words = f"{name}: {int((found > 1).sum())} of {count(len(found), 'slice')} over{beside}"
        axis.set_title(words, fontsize=9, loc="left", parse_math=False)
        axis.set_ylabel("slices", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_yscale("log")  # one slice among thousands is to be seen
        axis.set_ylim(bottom=0.5)
    axes[-1].set_xlabel(
        "score over the floor (multiples of the gate; line: the gate; left end: bitwise equal)", fontsize=8
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
    size += (
        "" if finite else f"{' and' if size else ','} {int((~np.isfinite(everything)).sum())} not finite or not there"
    )
    gap = (
        f"; between {times(within[-1])} and {times(apart.min())} lies nothing"
        if len(within) and len(apart) and apart.min() > 2
        else ""
    )
    return f"{over} of {count(len(everything), 'worst slice')} lie over the floor{size}{gap}"
