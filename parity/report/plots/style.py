"""What every figure shares: colours that survive colour blindness and print, a message on top, no display."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import LogFormatterSciNotation

# Okabe & Ito's palette: distinguishable with every common colour blindness. In grey BLUE (luminance 38 %) and
# VERMILION (50 %) come close, so whatever they tell apart also differs in hatch, marker or place.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
PALE, INK = "#e8e8e8", "#222222"
"""Background of what was not measured; lines and text."""

BELOW = ("#f4f8fc", "#dce9f5", "#c3d9ee", "#a9c9e6")
ABOVE = ("#f7a24b", "#e87a2c", "#c85218", "#963008", "#5a1700")
"""Classes below the floor and above it: two hues, and darker with every step, so that the order survives in grey."""

BOUNDS = (0.0, 0.1, 0.3, 0.6, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Lower ends of the classes, as multiples of the floor's gate."""

DPI = 144
_TITLE = FontProperties(size=11, weight="bold")
_MINOR = (1.2, 0.5)
"""Decades below which some ticks between powers of ten carry numbers, and all of them."""

_MARGIN = 0.02
"""Of the figure's width, kept free beside the title."""


@dataclass(frozen=True)
class Picture:
    """A figure and its message. title: the sentence above it. alt: what is drawn, for a reader who cannot see it."""

    figure: Figure
    title: str
    alt: str

    @cached_property
    def png(self) -> bytes:
        """The figure as PNG, drawn once; the same bytes for the same data and version of matplotlib."""
        out = BytesIO()
        self.figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
        return out.getvalue()

    def save(self, path: Path) -> Path:
        """Write the figure as PNG; returns the path."""
        path.write_bytes(self.png)
        return path

    def _repr_png_(self) -> bytes:
        return self.png


def figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches that needs no display."""
    # Letters are fitted to pixels: only at the resolution of the file is a text as wide as it will be there.
    made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made


def finish(made: Figure, title: str, alt: str) -> Picture:
    """Put the message on top, wrapped to the figure's width in lines of about one length: no word stands alone."""
    text = made.suptitle(title, x=0.01, ha="left", fontproperties=_TITLE, color=INK, parse_math=False)
    whole = text.get_window_extent().width
    room = (1 - _MARGIN) * made.bbox.width
    lines = [title]
    for number in range(2, 2 + len(title.split())):
        if whole <= room:
            break
        lines = _even_lines(title, number)
        text.set_text("\n".join(lines))
        whole = text.get_window_extent().width
    return Picture(made, title, alt)


def _even_lines(title: str, number: int) -> Sequence[str]:
    """`title` in at most `number` lines of about equal length."""
    width = -(-len(title) // number)
    while len(lines := textwrap.wrap(title, width, break_long_words=False)) > number:
        width += 1
    return lines


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as people write numbers: 0.01, 1, 1000; between them where it spans few decades."""
    axis.set_major_formatter(_Plain())
    axis.set_minor_formatter(_Plain(minor_thresholds=_MINOR))


class _Plain(LogFormatterSciNotation):
    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def empty(title: str, why: str) -> Picture:
    """A figure that says why there is nothing to draw."""
    made = figure(6.5, 1.2)
    made.text(0.02, 0.3, textwrap.fill(why, 80), fontsize=9, color=INK, parse_math=False)
    return finish(made, title, why)
