"""Do records show themselves: a readable line, a table for a notebook, a figure, and text as text in all of them?"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_cases import make_case
from report_pictures import experts_cut_off, gate_is_wrong, summary, within

from parity import display
from parity.climb import Investigation
from parity.display import Displayed
from parity.errors import UsageError
from parity.ladder.ledger import Ledger
from parity.records import Comparison, Finding, Summary, Verdict

SCRIPT = "<script>alert(1)</script>"


def shown(record: Displayed) -> str:
    page = record._repr_html_()
    assert page
    parser, text = HTMLParser(), []
    parser.handle_data = text.append  # type: ignore[method-assign]
    parser.feed(page)
    assert "<script" not in page
    return "".join(text)


def test_a_summary_says_its_worst_and_draws_its_map():
    record = summary(4, gate_is_wrong, mode="isolated")
    assert repr(record) == (
        "Summary(45 comparisons: 43 WITHIN_FLOOR, 2 EXCEEDS_FLOOR; the worst L02.moe.gate, 80 of its gate)"
    )
    text = shown(record)
    assert "L01.moe.gate" in text
    assert "L03.moe.gate" not in text, "what is cleared is counted only"
    pytest.importorskip("matplotlib")
    assert record.plot().title.startswith("Error arises at moe.gate of layers 1 and 2")


def test_a_table_is_there_for_its_rows_and_its_text_starts_at_the_left():
    same = [Comparison("x", 0, "attn.q", "prefill", Verdict.MATCH, mode="chained")]
    page = Summary(tuple(one.name for one in same), tuple(same))._repr_html_()
    assert page is not None
    assert "1 comparisons: 1 MATCH" in page
    assert "<table" not in page, "no head over nothing"
    row = summary(2, gate_is_wrong)._repr_html_() or ""
    assert "<td style=text-align:left>EXCEEDS_FLOOR</td>" in row
    assert "<td>40</td>" in row, "numbers keep the notebook's own side"


def test_a_comparison_and_a_finding_are_one_readable_line():
    record = summary(2, gate_is_wrong).comparisons[-4]
    assert repr(record) == (
        "Comparison(L01.moe.gate, prefill, chained: EXCEEDS_FLOOR, 40 of its gate at position 3: planted)"
    )
    assert "position 3" in shown(record)
    missing = Comparison("x", None, SCRIPT, "prefill", Verdict.NOT_COMPARED, reason=SCRIPT)
    assert SCRIPT in repr(missing)
    finding = Finding("fault", "zoom", (1, 2), "moe.gate", cause=SCRIPT, over_floor=80.0, not_excluded=(SCRIPT,))
    assert repr(finding) == f"Finding(fault, moe.gate of layers 1, 2: {SCRIPT}, 80 of its gate)"
    assert shown(finding).count(SCRIPT) == 2
    with pytest.raises(UsageError, match="figure of a Finding"):
        finding.plot()


def test_a_ledger_and_an_investigation_show_what_was_refuted(tmp_path: Path):
    folder = make_case(tmp_path / "case", text=SCRIPT)
    ledger = Ledger(folder)
    assert "H1 refuted" in repr(ledger)
    assert SCRIPT in shown(ledger)
    found = Investigation.read(folder)
    assert len(repr(found)) < 400
    assert "rows past a tile edge were never written" in shown(found)
    pytest.importorskip("matplotlib")
    assert found.plot().png.startswith(b"\x89PNG")
    assert experts_cut_off().plot().title.startswith("L01.moe.gate")


def test_without_the_report_a_record_has_its_repr(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(display, "RENDERERS", "parity.no_such_room")
    assert summary(1, within)._repr_html_() is None
    with pytest.raises(UsageError):
        summary(1, within).plot()
