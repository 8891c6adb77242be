"""Can a stranger read the ranked table, on a narrow terminal and in a pipe?"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from parity.compare.ranking import ranking_table
from parity.records import Comparison, SliceResult, Verdict

METRICS = {"rel_l2": 0.409, "cosine": 0.912448, "norm_ratio": 0.91245, "slope": 0.83256, "nonfinite": 0.0}
WORST = SliceResult("row", 250, "row 250", METRICS, 1294.0, "slope")
RECORDS = tuple(
    Comparison(f"model.layers.{n}.mlp.out", None, "x", "prefill", Verdict.EXCEEDS_FLOOR, METRICS, (WORST,), 1294.0,
               reason="slope of row 250") for n in range(3)
)  # fmt: skip


@pytest.mark.parametrize(("width", "whole"), [(80, False), (140, True)])
def test_names_and_scores_are_legible(width: int, whole: bool):
    out = io.StringIO()
    Console(file=out, width=width).print(ranking_table(RECORDS, top=3, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("model.layers." in line and "EXCEEDS_FLOOR" in line and "1294" in line for line in lines) == 3
    assert any("norm_ratio" in line for line in lines) == whole
