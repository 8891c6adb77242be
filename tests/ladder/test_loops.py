"""Is a correct implementation cleared on a prompt that says one thing again and again, and a wrong one still found?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.align import rows as alignment
from parity.floor import Floor
from parity.ladder import Replay, sweep
from parity.records import Summary, Verdict
from parity.runner import CapturePlan, Graft, Request, open_runner
from parity.trace import Trace

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODEL = f"recipe:{FIXTURES / 'models/moe-tiny'}"
TOKEN, TIMES = 2972, 300


@pytest.fixture(scope="module")
def floor() -> Floor:
    return Floor.load(FIXTURES / "floors/bf16.json")


@pytest.fixture(scope="module")
def exact() -> Any:
    return open_runner(MODEL, recipe="fp32")


@pytest.fixture(scope="module")
def emulation() -> Any:
    """The recipe in an order that rounds after every operation."""
    return open_runner(MODEL, recipe="bf16", order=9)


@pytest.fixture(scope="module")
def loop(emulation: Any) -> Trace:
    return emulation.forward([Request("loop", (TOKEN,) * TIMES)], capture=CapturePlan())


def over(summary: Summary) -> set[str]:
    return {record.name for record in summary.comparisons if record.verdict is Verdict.EXCEEDS_FLOOR}


def test_one_token_again_and_again_is_no_fault(loop: Trace, exact: Any, floor: Floor, monkeypatch: pytest.MonkeyPatch):
    """Rows that repeat one error taken for independent ones, both gates are passed by far."""
    for summary in (Replay(loop, exact).compare(floor=floor), sweep(exact, loop, floor=floor)):
        assert {record.verdict for record in summary.comparisons} == {Verdict.MATCH, Verdict.WITHIN_FLOOR}
    monkeypatch.setattr(alignment, "_contexts", lambda *_: None)
    assert len(over(Replay(loop, exact).compare(floor=floor))) > 5
    assert over(sweep(exact, loop, floor=floor))


@pytest.mark.parametrize("damage", ["one row", "all rows"])
def test_a_fault_in_a_loop_is_found(loop: Trace, emulation: Any, exact: Any, floor: Floor, damage: str):
    (capture,) = loop.select(stage="attn.out", layer=2)
    wrong = loop.tensor(capture).float().clone()
    if damage == "one row":
        wrong[np.int64(123)] = 0
    else:
        wrong *= 1.05
    graft = Graft(2, "attn.out", wrong.to(torch.bfloat16), capture.rows)
    faulty = emulation.forward([Request("loop", (TOKEN,) * TIMES)], capture=CapturePlan(), graft=[graft])
    assert over(Replay(faulty, exact).compare(floor=floor)) == {"L02.attn.out"}
