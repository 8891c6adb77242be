"""Pair, align, measure, judge: two traces or two tensors in, records with a closed set of verdicts out."""

from __future__ import annotations

from parity.compare.divergence import first_divergence
from parity.compare.judge import judge, over_floor_by_kind
from parity.compare.labels import RowLabels, label_rows
from parity.compare.measure import Measured, measure
from parity.compare.pair import compare_aligned, compare_pair, measure_aligned, sample_aligned
from parity.compare.table import floor_map, layer_table
from parity.compare.traces import compare_traces, measure_site, sample_traces

__all__ = [
    "Measured",
    "RowLabels",
    "compare_aligned",
    "compare_pair",
    "compare_traces",
    "first_divergence",
    "floor_map",
    "judge",
    "label_rows",
    "layer_table",
    "measure",
    "measure_aligned",
    "measure_site",
    "over_floor_by_kind",
    "sample_aligned",
    "sample_traces",
]
