"""What do an investigation's numbers say in words?"""

from __future__ import annotations

from parity.graft.effect import agreement
from parity.invariance import Coverage
from parity.records import Comparison, SliceResult, Summary, Verdict
from parity.report.words import expert_overlap, gate_passed, launches_over, worst_slice


def test_expert_overlap_is_shown_by_layer():
    ids = Comparison("L00.moe.topk_ids", 0, "moe.topk_ids", "prefill", Verdict.MATCH, {"overlap": 1.984, "top_k": 2.0})
    assert expert_overlap(Summary((ids.name,), (ids,))) == "1.98 of 2"
    assert expert_overlap(Summary((), ())) == ""


def test_small_words():
    assert agreement((1, 2, 3), (1, 2, 4)) == 2
    assert agreement((1, 2), (1, 2, 4)) == 2
    assert gate_passed(0.9995).endswith("0.999 passes it")
    assert gate_passed(0.5) == "no usual threshold would pass it"


def test_the_worst_slice_is_told_or_why_there_is_none():
    worst = SliceResult("row", 7, "position 7", {"rel_l2": 0.5}, 12.5, "rel_l2")
    seen = Comparison("moe.up", 0, "moe.up", "prefill", Verdict.EXCEEDS_FLOOR, {}, (worst,), 12.5, 10, reason="over")
    assert worst_slice(seen) == "position 7: rel_l2 0.5"
    gone = Comparison("moe.up", 0, "moe.up", "prefill", Verdict.MISSING_IN_SUT, reason="no capture")
    assert worst_slice(gone) == "no capture"


def test_of_launches_that_fall_short_the_first_of_a_layer_is_told():
    def launch(layer: int, stage: str, most: int) -> Coverage:
        name = f"L{layer:02d}.{stage}"
        return Coverage(name, layer, stage, "rows_per_expert", 64, most, 64, (1, 1, 2), (most, 4))

    gate, up, sound = launch(0, "moe.gate", 80), launch(0, "moe.up", 80), launch(1, "moe.gate", 60)
    assert launches_over((gate, up, sound)) == [gate]
    assert launches_over((sound,)) == []
