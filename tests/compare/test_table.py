"""Can a terminal without colour tell every verdict from every other, and does the table say what it hides?"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from parity.compare import first_divergence, floor_map, layer_table
from parity.compare.table import cell_words, over_floor_words
from parity.records import Comparison, SliceResult, Summary, Verdict
from parity.stages import QWEN3_MOE


def record(stage, layer, verdict, over=None, phase="prefill", **more):
    from parity.records import site_name

    return Comparison(site_name(layer, stage), layer, stage, phase, verdict, over_floor=over, reason="because", **more)


def plain(renderable) -> str:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(renderable)
    return out.getvalue()


@pytest.fixture
def summary():
    worst = (SliceResult("row", 5, "position 5, expert 3, its row 64", {"rel_l2": 1.0}, 8.4, "rel_l2"),)
    whole = {"cosine": 0.9971, "norm_ratio_mean": 0.97, "norm_ratio_sd": 0.02}
    comparisons = (
        record("embed.out", None, Verdict.MATCH, 0.0),
        record("attn.q", 0, Verdict.WITHIN_FLOOR, 0.61),
        record("moe.topk_ids", 0, Verdict.WITHIN_FLOOR, 0.2, whole={"overlap": 1.98, "top_k": 2.0, "complete": 0.982}),
        record("moe.up", 1, Verdict.EXCEEDS_FLOOR, 2.0),
        record("moe.gate", 1, Verdict.EXCEEDS_FLOOR, 8.4, whole=whole, worst=worst),
        record("moe.gate", 1, Verdict.WITHIN_FLOOR, 0.3, phase="decode"),
        record("logits", None, Verdict.NONFINITE),
    )
    return Summary(tuple(c.name for c in comparisons), comparisons)


def test_table_shows_the_numbers_engine_people_read_first(summary):
    text = plain(layer_table(summary))
    line = next(line for line in text.splitlines() if "L01.moe.gate" in line and "prefill" in line)
    for piece in (
        "EXCEEDS_FLOOR",
        "0.997100",
        "0.9700 +/- 0.0200",
        "8.40",
        "position 5, expert 3, its row 64 (rel_l2 1)",
    ):
        assert piece in line
    assert "1.98 of 2, 98.2 % of tokens all" in text
    assert "1 MATCH, 3 WITHIN_FLOOR, 2 EXCEEDS_FLOOR, 1 NONFINITE" in text


def test_a_narrow_window_keeps_the_worst_slice_and_says_what_it_leaves_out(summary):
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(layer_table(summary, width=80))
    text = out.getvalue()
    slices = " ".join(line.split("│")[-2].strip() for line in text.splitlines() if line.count("│") > 2)
    assert "position 5, expert 3, its row 64 (rel_l2 1)" in slices
    assert "…" not in text
    assert "shows cosine, norm ratio, experts in common too" in " ".join(text.split())
    assert "window" not in plain(layer_table(summary))


def test_table_says_what_it_hides(summary):
    text = plain(layer_table(summary, only_unhealthy=True))
    assert "attn.q" not in text
    assert "(4 healthy not shown)" in text


def test_an_empty_summary_does_not_look_like_success():
    assert "nothing was compared" in plain(layer_table(Summary((), ())))


def test_map_keeps_the_worst_phase_and_needs_no_colour(summary):
    lines = {
        line.split()[0].strip("│"): line for line in plain(floor_map(summary.comparisons)).splitlines() if "│" in line
    }
    assert "8.40!" in lines["moe.gate"]
    assert "0.61" in lines["attn.q"]
    assert "!" not in lines["attn.q"]
    assert "N!" in lines["logits"]
    assert "=" in lines["embed.out"]


def test_every_verdict_has_a_cell_and_faulty_ones_are_marked():
    for verdict in Verdict:
        words = cell_words(record("attn.q", 0, verdict, 3.0 if verdict is Verdict.EXCEEDS_FLOOR else 0.5))
        assert words
        assert words.endswith("!") == verdict.faulty
        assert ("?" in words) == (verdict in (Verdict.NO_FLOOR, Verdict.NO_POWER, Verdict.NOT_COMPARED))


def test_scores_keep_two_figures():
    assert [over_floor_words(x) for x in (None, 0.614, 8.4, 86.3, float("inf"))] == ["-", "0.61", "8.40", "86", "inf"]


def test_first_divergence_goes_by_the_graph_not_by_size_or_listing(summary):
    first = first_divergence(summary, QWEN3_MOE)
    assert first is not None
    assert (first.stage, first.layer, first.phase) == ("moe.gate", 1, "prefill")
    healthy = Summary(("embed.out",), summary.comparisons[:1])
    assert first_divergence(healthy, QWEN3_MOE) is None
