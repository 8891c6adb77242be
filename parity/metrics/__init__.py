"""Two tensors in, numbers out: no thresholds, no verdicts, no files."""

from __future__ import annotations

from parity.metrics.formulas import (
    METRICS,
    all_metrics,
    cosine,
    max_abs,
    nonfinite,
    norm_ratio,
    norm_ratio_error,
    rel_l2,
    slope,
    slope_error,
)
from parity.metrics.moments import Moments
from parity.metrics.native import native_state
from parity.metrics.pairs import READABLE, fold_moments, pair_moments, usable_threads
from parity.metrics.repeats import contexts, independent_by_group, independent_rows, of_slot
from parity.metrics.rounded import fold_rounded, rounded_moments
from parity.metrics.rounding import FORMATS, RoundedMoments, RoundingModel, RowRepeats
from parity.metrics.slices import (
    COLUMN_BLOCK,
    KINDS,
    Columns,
    SliceTable,
    column_edges,
    size_cuts,
    sized_rows,
    slice_metrics,
    slice_tables,
    tables_of,
)

__all__ = [
    "COLUMN_BLOCK",
    "FORMATS",
    "KINDS",
    "METRICS",
    "READABLE",
    "Columns",
    "Moments",
    "RoundedMoments",
    "RoundingModel",
    "RowRepeats",
    "SliceTable",
    "all_metrics",
    "column_edges",
    "contexts",
    "cosine",
    "fold_moments",
    "fold_rounded",
    "independent_by_group",
    "independent_rows",
    "max_abs",
    "native_state",
    "nonfinite",
    "norm_ratio",
    "norm_ratio_error",
    "of_slot",
    "pair_moments",
    "rel_l2",
    "rounded_moments",
    "size_cuts",
    "sized_rows",
    "slice_metrics",
    "slice_tables",
    "slope",
    "slope_error",
    "tables_of",
    "usable_threads",
]
