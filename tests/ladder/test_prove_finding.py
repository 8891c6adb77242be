"""Does a finding live through a proof that cannot be run, and say why?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.ladder import Opening
from parity.ladder.prove_finding import prove_finding
from parity.records import Finding
from parity.runner import CapturePlan, Request, open_runner

PROMPT = Request("random", tuple(torch.randint(0, 80, (9,), generator=torch.Generator().manual_seed(4)).tolist()))
FOUND = Finding("fault", "isolated replay", (1,), "moe.down", over_floor=3.0)


class Fragile:
    """An engine that is well as long as nothing is grafted into it."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner

    def describe(self) -> Any:
        return self.runner.describe()

    def forward(self, *args: Any, graft: Any = (), **rest: Any) -> Any:
        if graft:
            raise RuntimeError("an illegal memory access was encountered")
        return self.runner.forward(*args, **rest)


class Closed(Fragile):
    def describe(self) -> Any:
        return replace(self.runner.describe(), can=frozenset({"forward"}))


@pytest.mark.parametrize(
    ("engine", "said"),
    [(Fragile, "RuntimeError: an illegal memory access was encountered"), (Closed, "runner that can graft")],
)
def test_a_proof_that_cannot_be_run_leaves_the_finding_unproved(bf16_model: Path, engine: Any, said: str):
    runner = open_runner(f"recipe:{bf16_model}")
    trace = runner.forward([PROMPT], capture=CapturePlan())
    found, proof = prove_finding(
        engine(runner), FOUND, oracle=runner, emulation=Opening(f"recipe:{bf16_model}"), request=PROMPT, trace=trace,
        chained=None, floor=None,
    )  # fmt: skip
    assert proof is None
    assert found.proof["proved"] is False
    assert said in found.proof["sentence"]
    assert replace(found, proof={}) == FOUND, "nothing else of the finding changes"
