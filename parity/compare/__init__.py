"""Pair, align, measure, judge: two traces or two tensors in, records with a closed set of verdicts out."""

from __future__ import annotations

from parity.compare.divergence import first_divergence
from parity.compare.files import compare_files, compare_paths, open_floor
from parity.compare.judge import judge, over_floor_by_kind
from parity.compare.labels import RowLabels, label_rows
from parity.compare.measure import Measured, measure
from parity.compare.outcome import Outcome
from parity.compare.pair import compare_aligned, compare_pair, measure_aligned, sample_aligned
from parity.compare.ranking import harmless, ranking_table, show_outcome
from parity.compare.table import floor_map, layer_table
from parity.compare.traces import compare_traces, measure_site, sample_traces

__all__ = [
    "Measured",
    "Outcome",
    "RowLabels",
    "compare_aligned",
    "compare_files",
    "compare_pair",
    "compare_paths",
    "compare_traces",
    "first_divergence",
    "floor_map",
    "harmless",
    "judge",
    "label_rows",
    "layer_table",
    "measure",
    "measure_aligned",
    "measure_site",
    "open_floor",
    "over_floor_by_kind",
    "ranking_table",
    "sample_aligned",
    "sample_traces",
    "show_outcome",
]
