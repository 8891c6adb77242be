"""What a report says, drawn from records: every site, its numbers, the text of models as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest

from parity.invariance import Coverage
from parity.ladder import CaptureInvestigation, Observation
from parity.records import (
    Comparison,
    Environment,
    Finding,
    Lineage,
    Recipe,
    Run,
    Slice,
    SliceResult,
    Summary,
    Verdict,
)  # fmt: skip
from parity.report.figures import draw_figures
from parity.report.markdown import agreement, expert_overlap, gate_passed, markdown_table, write_report
from parity.report.show import show_investigation
from parity.runner import Generation, Request, RunnerInfo
from parity.trace import MemoryTrace

RECIPE = Recipe("fp8_block", "e4m3", "e4m3", "e4m3", "fp32", "bf16", "bf16")
HERE = Environment("3.11", "2.13", "3.9", "5.23", "linux", "AVX2", 1, "cpu", True)
HOSTILE = "a|b\n<script>alert(1)</script>`"


class OneFloor:
    """What a report reads of a floor."""

    runs = ("a", "b")
    gates: ClassVar[dict[str, Any]] = {}


def comparison(layer: int | None, stage: str, over: float, mode: str) -> Comparison:
    verdict = Verdict.EXCEEDS_FLOOR if over > 1 else Verdict.WITHIN_FLOOR
    worst = SliceResult("row", 7, "position 7", {"rel_l2": 0.5}, over, "rel_l2")
    whole = {"cosine": 0.987, "norm_ratio": 0.99}
    name = stage if layer is None else f"L{layer:02d}.{stage}"
    return Comparison(
        name, layer, stage, "prefill", verdict, whole, (worst,), over, 10, reason="over" if over > 1 else "", mode=mode
    )


def investigation(over: float, text: str, ids: tuple[int, ...]) -> CaptureInvestigation:
    run = Run("qwen3_moe", "tiny", 1, ("p",), ((1, 2, 3),), RECIPE, Lineage("sha256:0123"), HERE)
    info = RunnerInfo("triton", "qwen3_moe", 1, {}, RECIPE, Lineage("sha256:0123"), HERE, (), frozenset())
    observation = Observation(info, Request("p", (1, 2, 3)), MemoryTrace(run, (), {}), Generation(ids, text))

    def summary(mode: str) -> Summary:
        records = tuple(comparison(0, stage, over, mode) for stage in ("moe.gate", "resid.out"))
        return Summary(tuple(record.name for record in records), records)

    fault = over > 1
    by_layer = [{"layer": 0, "sentence": "Rows 64 and up were never written."}]
    finding = Finding(
        "fault" if fault else "clean", "isolated replay", (0,) if fault else (), "moe.gate" if fault else None,
        Slice(experts=(3,)), "rows past a tile edge were never written" if fault else None, "The first stage.", over,
        {"by_layer": by_layer} if fault else {}, not_excluded=("the sampler",),
    )  # fmt: skip
    cover = Coverage("L00.moe.gate", 0, "moe.gate", "rows_per_expert", 64, 80 if fault else 60, 64, (1, 1, 2), (80, 4))
    return CaptureInvestigation(
        observation, info, Generation((1, 2, 3), "the truth"), OneFloor(),  # type: ignore[arg-type]
        summary("chained"), summary("isolated"), (cover,) if fault else (), finding,
    )  # fmt: skip


@pytest.fixture
def pair() -> tuple[CaptureInvestigation, CaptureInvestigation]:
    return investigation(12.5, HOSTILE, (1, 9, 3)), investigation(0.5, "the truth", (1, 2, 3))


def test_the_report_states_what_was_found(pair: tuple[CaptureInvestigation, CaptureInvestigation], tmp_path: Path):
    path = write_report(*pair, figures={"map": "map.png", "load": "load.png"}, path=tmp_path / "report.md")
    text = path.read_text()
    for said in (
        "cosine 0.9870", "cosine >= 0.98 passes it", "1 of 3", "3 of 3", "| L00.moe.gate | 12.50 |",
        "grid_cap=64 truncated=true", "(map.png)", "(load.png)", "every site lies within its floor", "the sampler",
        "Rows 64 and up were never written.", "sha256:0123", "2 of 2 sites add error",
    ):  # fmt: skip
        assert said in text, said
    assert "{{" not in text
    assert "None" not in text


def test_text_of_a_model_cannot_break_the_table(
    pair: tuple[CaptureInvestigation, CaptureInvestigation], tmp_path: Path
):
    text = write_report(*pair, figures={}, path=tmp_path / "report.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| engine under test | ")]
    assert row.count("|") == 4
    quoted = row.split("|")[2].strip()
    assert re.fullmatch(r"`[^`]*<script>[^`]*`", quoted), "inside backticks a tag stays text"
    assert "![" not in text, "without figures none is linked"


def test_figures_are_drawn_and_named(pair: tuple[CaptureInvestigation, CaptureInvestigation], tmp_path: Path):
    figures = draw_figures(*pair, tmp_path)
    assert set(figures) == {"map", "load"}
    for name in figures.values():
        head = (tmp_path / name).read_bytes()
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(head) > 5000
    assert set(draw_figures(pair[1], pair[1], tmp_path)) == {"map"}, "no launch fell short"


def test_the_terminal_shows_the_same(pair: tuple[CaptureInvestigation, CaptureInvestigation]):
    from rich.console import Console

    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    show_investigation(*pair, console)
    text = console.export_text()
    for said in ("1 of 3", "0.9870", "12", "grid_cap=64", "everything within the floor", "<script>"):
        assert said in text, said


def test_expert_overlap_is_shown_by_layer():
    ids = Comparison("L00.moe.topk_ids", 0, "moe.topk_ids", "prefill", Verdict.MATCH, {"overlap": 1.984, "top_k": 2.0})
    assert expert_overlap(Summary((ids.name,), (ids,))) == "1.98 of 2"
    assert expert_overlap(Summary((), ())) == ""


def test_small_words():
    assert agreement((1, 2, 3), (1, 2, 4)) == 2
    assert agreement((1, 2), (1, 2, 4)) == 2
    assert gate_passed(0.9995).endswith("0.999 passes it")
    assert gate_passed(0.5) == "no usual threshold would pass it"
    assert markdown_table([("a|b", 1)], ["x", "y"]) == "| x | y |\n| --- | --- |\n| a\\|b | 1 |\n"
