"""What every figure shares: colours that survive colour blindness and print, a figure without a display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe & Ito's palette: distinguishable with every common colour blindness.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"


def figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches that needs no display."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: Path) -> Path:
    """Write the figure as PNG at 144 dpi and return the path."""
    made.savefig(path, dpi=144)
    return path
