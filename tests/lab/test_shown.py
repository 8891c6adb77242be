"""Do the lab's records show themselves, with every text quoted, and its bars only to people?"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from parity.fingerprint import Fingerprint
from parity.graft import Effect
from parity.lab import Grafted, Ranking, Texts, ZoomedSite
from parity.lab.progress import Bars
from parity.lab.ranking import RankedSlice
from parity.records import Comparison, Slice, Verdict
from parity.runner import Generation

SCRIPT = "<script>alert(1)</script>"
EFFECT = Effect(0.3, 0.1, 2.0, 1.0, 0.9, 0.95, 40, 17)
TEXTS = Texts(Generation((1, 2), "right"), Generation((1, 3), SCRIPT), (("a", "b"), ("a", SCRIPT)))
SLICES = tuple(RankedSlice(f"head {n} {SCRIPT}", "prefill", 4, 0.5, 30.0 - n, "rel_l2", n == 0) for n in range(20))
RANKING = Ranking("L00.attn.q", "head", SLICES, 20, 19)
RECORD = Comparison("L00.attn.q", 0, "attn.q", "prefill", Verdict.EXCEEDS_FLOOR, over_floor=30.0, reason=SCRIPT)
SITE = ZoomedSite("L00.attn.q", (RECORD,), {"head": RANKING}, (Fingerprint(SCRIPT, 0.5, {}, SCRIPT),))


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (TEXTS, "1 of 2 tokens agree"),
        (RANKING, "19 of 20 slices over the floor; 8 less bad ones are not shown"),
        (SITE, "EXCEEDS_FLOOR"),
        (Grafted(("L00.attn.q",), "oracle", Slice(), EFFECT, 3, TEXTS, 0), "3 rows were left out"),
    ],
)
def test_a_record_is_a_table_and_a_line(record, told: str):
    page = record._repr_html_()
    assert told in page
    assert "<table>" in page
    assert "<script" not in page
    assert len(repr(record)) < 300


def test_texts_and_slices_draw_themselves():
    pytest.importorskip("matplotlib")
    assert TEXTS.plot().title.startswith("The texts part at new token 1")
    assert RANKING.plot().title == "L00.attn.q has no field to draw"


def test_bars_are_for_people(monkeypatch: pytest.MonkeyPatch):
    def written(**options) -> str:
        out = io.StringIO()
        bars = Bars(console=Console(file=out, force_terminal=options.pop("terminal"), width=80), **options)
        with bars.step("capture"):
            bars.tell("layers", 1, 4)
        bars.tell("after the end", 1, 1)
        return out.getvalue()

    monkeypatch.delenv("CI", raising=False)
    assert written(terminal=False) == ""
    assert "layers" in written(terminal=True)
    assert written(terminal=True, quiet=True) == ""
    monkeypatch.setenv("CI", "true")
    assert written(terminal=True) == ""
