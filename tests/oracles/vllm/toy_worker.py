"""A process that serves a toy runner as the real worker serves vLLM, or fails in the way that `mood` says."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
import torch

from parity.errors import UsageError
from parity.probes import Recorder
from parity.records import Environment, Lineage, Recipe, Rows, Run
from parity.runner import Generation, RunnerInfo
from parity_oracles.vllm.worker import serve

INFO = RunnerInfo(
    name="vllm", family="qwen3_moe", layers=2, hyper={"vocab": 23}, recipe=Recipe("bf16", *["bf16"] * 6),
    lineage=Lineage("sha256:0", ("to fp8",)), environment=Environment("3", "2", None, None, "p", "c", 1, "cpu", False),
    stages=("attn.q", "logits"), can=frozenset({"forward", "chunk"}), variants={"op": ("a", "b")},
    inner=frozenset({"attn.q"}), bound=frozenset({"w"}),
)  # fmt: skip


class Toy:
    """Its logits are the ids."""

    unobservable = {"moe.gate": "inside"}  # noqa: RUF012
    on_step: Any = None

    def __init__(self, mood: str) -> None:
        if mood == "dies":
            print("out of memory", file=sys.stderr, flush=True)
            os._exit(3)
        if mood == "silent":
            time.sleep(600)

    def describe(self) -> RunnerInfo:
        return INFO

    def forward(self, requests: Any, *, schedule: Any, capture: Any) -> Any:
        del schedule
        ids = requests[0].ids
        if 13 in ids:
            raise UsageError(place="toy", expected="luck", found="13", next_step="None.")
        if capture is None:
            return
        run = Run(
            INFO.family, "toy", 2, tuple(r.name for r in requests), tuple(r.ids for r in requests), INFO.recipe,
            INFO.lineage, INFO.environment, ((None, "logits"),),
        )  # fmt: skip
        with Recorder(capture, run) as recorder:
            rows = Rows(np.zeros(len(ids), np.int32), np.arange(len(ids)))
            table = torch.tensor(ids).float()[:, None].expand(-1, 23)
            recorder.step(phase="prefill", step=0, rows=rows)("logits", table.contiguous(), None)

    def generate(self, request: Any, *, max_new_tokens: int, schedule: Any) -> Generation:
        del schedule
        self.on_step("generate", 1, max_new_tokens)
        return Generation(request.ids[-1:] * max_new_tokens)

    def scale_parameter(self, *_: Any) -> None:
        os._exit(4)

    def close(self) -> None: ...


if __name__ == "__main__":
    answers = os.dup(1)
    os.dup2(2, 1)
    serve(sys.stdin.buffer, os.fdopen(answers, "wb"), Toy)
