"""Is a trace that vLLM left judged as a run is, and is what cannot be asked for refused?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parity.errors import UsageError
from parity.floor import derive_floor
from parity.records import Verdict
from parity.runner import CapturePlan, Request, Schedule
from parity_oracles.vllm.compare import judge_trace, main

SENT = [Request("a", (7, 3, 11, 2, 5, 9, 1, 4, 8)), Request("b", (7, 3, 12, 6, 1))]
SAME = derive_floor("derived:float32:64")


@pytest.mark.parametrize("strength", [1.0, 1.05])
def test_a_trace_is_judged_without_the_engine_that_made_it(toy: Any, strength: float) -> None:
    sut = toy()
    sut.engine.model.model.layers[1].self_attn.o_proj.weight.mul_(strength)
    trace = sut.forward(SENT, schedule=Schedule(chunk=4, decode=2), capture=CapturePlan())
    found = judge_trace(oracle=toy(), trace=trace, floor=SAME, free=True)
    assert found.summary.healthy is (strength == 1.0)
    over = [one.name for one in found.summary.comparisons if one.verdict is Verdict.EXCEEDS_FLOOR]
    assert over[:1] == ([] if strength == 1.0 else ["L01.attn.out"])
    assert found.unobservable == sut.unobservable


def test_what_a_run_is_asked_for_is_refused_beside_a_trace(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found --chunk, --decode"):
        main("hf:model", trace=tmp_path, chunk=3, decode=1)


@pytest.mark.parametrize("given", [{}, {"model": Path("model")}, {"prompts": [Path("prompt")]}])
def test_neither_a_trace_nor_prompts_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="MODEL and --prompts, or --trace"):
        main("hf:model", **given)
