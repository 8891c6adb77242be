"""An engine that runs nothing, and an investigator that does what its instance is called: for the harness alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.errors import UsageError
from parity.records import Environment, Finding, Lineage, Recipe, Slice
from parity.runner import Request, RunnerInfo
from parity.zoo.blind import BlindFinding, Setup

RECIPE = Recipe("bf16", "bf16", "bf16", "bf16", "fp32", "bf16", "bf16")
STAGES = ("attn.context", "moe.gate", "moe.up", "moe.act", "moe.down", "moe.experts", "resid.out")


class StubEngine:
    """Describes itself, and can do nothing else."""

    def describe(self) -> RunnerInfo:
        return RunnerInfo(
            name="stub",
            family="qwen3_moe",
            layers=4,
            hyper={"layers": 4, "experts": 8, "vocab": 100, "norm_topk_prob": True},
            recipe=RECIPE,
            lineage=Lineage("stub-weights"),
            environment=Environment("3", "2", None, None, "none", "none", 1, "cpu", False),
            stages=STAGES,
            can=frozenset(),
        )


def open_engine(model: str) -> StubEngine:
    return StubEngine()


def found(verdict: str = "clean", **more: Any) -> BlindFinding:
    return BlindFinding(Finding(verdict, "isolated replay", **more), {"all": 0.0}, 2, 1, STAGES, 4)


def answer(engine_spec: str, options: Mapping[str, Any], request: Request, setup: Setup) -> BlindFinding:
    name = options.get("fault", "clean").rpartition(":")[2].partition("@")[0]
    if name == "dies":
        print("about to die", flush=True)
        os._exit(3)
    if name == "refused_by_engine":
        raise UsageError(place="stub", expected="x", found="y", next_step="none")
    if name == "found_right":
        return found(
            "fault", layers=(1,), stage="moe.up", slice=Slice(experts=(3,)), cause="constant ratio",
            proof={"proved": True}, over_floor=float("inf"),
        )  # fmt: skip
    if name == "blamed_control":
        return found("fault", layers=(0,), stage="moe.up")
    return found()


def hang(engine_spec: str, options: Mapping[str, Any], request: Request, setup: Setup) -> BlindFinding:
    """Starts a process of its own and never ends."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(setup.model, "grandchild").write_text(str(child.pid))
    time.sleep(600)
    return found()
