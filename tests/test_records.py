"""Records refuse to exist in a state that would hide something."""

from __future__ import annotations

import json

import numpy as np
import pytest

from parity.errors import UsageError
from parity.records import Comparison, Rows, Slice, Summary, Verdict, as_json, site_name


def compared(name: str, verdict: Verdict = Verdict.MATCH, **fields: object) -> Comparison:
    return Comparison(name=name, layer=0, stage="attn.q", phase="prefill", verdict=verdict, **fields)  # type: ignore[arg-type]


def test_a_summary_accounts_for_every_declared_probe():
    summary = Summary(("a", "b"), (compared("a"), compared("b", Verdict.WITHIN_FLOOR, over_floor=0.5)))
    assert summary.healthy
    assert summary.verdicts == {"MATCH": 1, "WITHIN_FLOOR": 1}
    assert summary.worst_over_floor == 0.5
    for names in (("a",), ("a", "b", "c"), ("a", "b", "b")):
        with pytest.raises(UsageError, match="summary"):
            Summary(names, summary.comparisons)


def test_a_comparison_of_nothing_is_no_success():
    assert not Summary((), ()).healthy


@pytest.mark.parametrize("verdict", [v for v in Verdict if v not in (Verdict.MATCH, Verdict.WITHIN_FLOOR)])
def test_every_other_verdict_needs_a_reason_and_is_not_healthy(verdict: Verdict):
    with pytest.raises(UsageError):
        compared("a", verdict, over_floor=2.0)
    judged = compared("a", verdict, over_floor=2.0, reason="because")
    assert not Summary(("a",), (judged,)).healthy


def test_a_judged_comparison_carries_its_score():
    with pytest.raises(UsageError, match="score"):
        compared("a", Verdict.WITHIN_FLOOR)


def test_json_is_strict_json():
    value = as_json({"nan": float("nan"), "inf": np.float32("inf"), "rows": np.arange(3), "slice": Slice(experts=(1,))})
    assert json.loads(json.dumps(value, allow_nan=False)) == {
        "nan": "nan", "inf": "inf", "rows": [0, 1, 2],
        "slice": {"heads": None, "experts": [1], "rows": None, "columns": None, "positions": None},
    }  # fmt: skip


def test_rows_are_taken_together():
    rows = Rows(np.zeros(3, np.int32), np.arange(3), np.arange(3, dtype=np.int32), None)
    taken = rows.take(np.array([2, 0]))
    assert taken.position.tolist() == [2, 0]
    assert taken.slot is not None
    assert taken.slot.tolist() == [2, 0]
    assert len(taken) == 2


def test_site_names():
    assert site_name(2, "moe.gate") == "L02.moe.gate"
    assert site_name(None, "logits") == "logits"
