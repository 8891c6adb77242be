"""Is a flip judged by its margin against the noise of the logits, and never by the distance of ids?"""

from __future__ import annotations

import numpy as np
import pytest

from parity.align import route
from parity.compare.labels import label_rows
from parity.compare.routes import judge_routes, margin_floor
from parity.records import Verdict

LOGITS = np.tile(np.array([[3.0, 2.0, 1.999, -5.0]]), (4, 1))
BEST = np.tile(np.array([[0, 1]]), (4, 1))


def judged(sut, floor, *, logits=LOGITS, mode="chained", layer=1):
    routing = route(oracle_ids=BEST, sut_ids=np.array(sut), router_logits=logits)
    labels = label_rows(position=np.arange(100, 104))
    return judge_routes(routing, labels, layer=layer, floor=floor, mode=mode)


def with_token(ids):
    return [[0, 1], [0, 1], ids, [0, 1]]


@pytest.mark.parametrize(
    ("ids", "verdict"),
    [
        ([0, 1], Verdict.MATCH), ([1, 0], Verdict.WITHIN_FLOOR), ([0, 2], Verdict.WITHIN_FLOOR),
        ([0, 3], Verdict.EXCEEDS_FLOOR), ([0, 0], Verdict.EXCEEDS_FLOOR), ([0, 9], Verdict.EXCEEDS_FLOOR),
    ],
)  # fmt: skip
def test_verdict_of_one_token(floor, ids, verdict):
    record = judged(with_token(ids), floor)
    assert record.verdict is verdict
    assert record.whole["overlap"] == pytest.approx(2 - 0.25 * (2 - len({0, 1} & set(ids))))


def test_the_limit_is_twice_the_gate_of_the_logits(floor):
    from parity.floor import Bin

    gate = floor.gate(Bin("chained", "moe.router_logits", 1, "row", "max_abs", "prefill", 4, -1))
    limits = margin_floor(floor, mode="chained", layer=1, phase=np.array(["prefill"] * 4), position=np.arange(100, 104))
    assert limits == pytest.approx(2 * gate)


def test_what_is_not_known_is_not_excused(floor):
    assert judged(with_token([0, 2]), floor, logits=None).verdict is Verdict.NO_FLOOR
    assert judged(with_token([0, 2]), floor, layer=99).verdict is Verdict.NO_FLOOR
    assert judged(with_token([0, 2]), None).verdict is Verdict.NO_FLOOR
    assert judged(with_token([0, 0]), floor, layer=99).verdict is Verdict.EXCEEDS_FLOOR


def test_on_the_same_logits_no_flip_is_a_near_tie(floor):
    """Isolated: the oracle chose from the SUT's own logits, whose clean error is exactly zero."""
    record = judged(with_token([0, 2]), floor, mode="isolated")
    assert record.verdict is Verdict.EXCEEDS_FLOOR
    assert record.over_floor == np.inf
