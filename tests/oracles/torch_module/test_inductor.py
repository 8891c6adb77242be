"""Do probes live in code that inductor made, fresh or from its cache, and leave its values alone?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.runner import CapturePlan, Graft, Request
from parity.trace import Trace
from parity_oracles.hf.torch_folder import open_runner as open_torch
from parity_oracles.torch_module import Compilation, TorchModel, TorchRunner

ALL = CapturePlan()
FIRST = Request("first", (3, 1, 4, 1, 5, 9, 2))
OTHER = Request("other", (6, 5, 3, 5, 8, 9, 7))
ROOT = Path(__file__).resolve().parents[3]
INDUCTOR = Compilation("inductor")

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def logits(trace: Trace) -> torch.Tensor:
    return torch.cat([trace.tensor(capture) for capture in trace.select(stage="logits")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probes_leave_every_bit_alone(dtype: torch.dtype, make_toy: Callable[..., TorchModel]) -> None:
    """With the casts of the eager module kept; that is what the option is for."""
    runner = TorchRunner(make_toy(dtype=dtype), INDUCTOR)
    for request in (FIRST, OTHER):
        trace = runner.forward([request], capture=ALL)
        assert torch.equal(logits(trace), runner.logits([request]))
    capture = trace.select(stage="mlp.act")[0]
    own = trace.tensor(capture)
    sham = runner.forward([OTHER], capture=ALL, graft=[Graft(0, "mlp.act", own, capture.rows)])
    assert torch.equal(logits(sham), logits(trace))
    moved = runner.forward([OTHER], capture=ALL, graft=[Graft(0, "mlp.act", own + 1, capture.rows)])
    assert not torch.equal(logits(moved), logits(trace))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_hf_model_compiles_into_one_graph(
    dtype: str, make_model: Callable[..., Path], prompt: Request, stages_of: Callable[..., Any]
) -> None:
    folder = str(make_model(num_hidden_layers=1))
    ours = open_torch(folder, dtype=dtype, compile="inductor")
    trace = ours.forward([prompt], capture=ALL)
    assert torch.equal(logits(trace), ours.logits([prompt]))
    eager = stages_of(open_torch(folder, dtype=dtype).forward([prompt], capture=ALL))
    seen = stages_of(trace)
    assert seen.keys() == eager.keys()
    # One layer is 16 roundings of the dtype deep, each at most half an ulp of what it rounds; fp32 sums of 160 besides.
    unit = 16 * (2**-8 if dtype == "bfloat16" else 160**0.5 * 2**-24)
    for site, value in seen.items():
        if site[1] not in ("moe.topk_ids", "moe.topk_weights"):
            error = (value.double() - eager[site].double()).norm() / eager[site].double().norm()
            assert error < unit, (site, float(error))


CHILD = """
import json, sys, torch
from parity.runner import CapturePlan, Request
from parity_oracles.hf.torch_folder import open_runner
from torch._dynamo.utils import counters
runner = open_runner(sys.argv[1], compile="inductor")
trace = runner.forward([Request("x", (3, 1, 4, 1, 5, 9, 2))], capture=CapturePlan())
sums = {c.name: trace.tensor(c).double().sum().item() for c in trace.captures}
caches = dict(counters["inductor"]) | dict(counters["aot_autograd"])
print(json.dumps({"sums": sums, "hits": {k: v for k, v in caches.items() if "cache_hit" in k}}))
"""


@pytest.mark.timeout(1700)
def test_a_warm_compile_cache_keeps_the_probes(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """A second process takes the compiled code from inductor's cache, and sees every stage all the same."""
    folder = str(make_model(model_type="llama", hidden_size=192, num_hidden_layers=1))
    path = os.pathsep.join(str(ROOT / part) for part in ("", "kernels", "oracles"))
    environment = {**os.environ, "PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    runs = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", CHILD, folder], env=environment, capture_output=True, text=True,
                              timeout=800, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    cold, warm = runs
    assert not any(cold["hits"].values())
    assert any(warm["hits"].values()), "the second process compiled again: nothing was tested"
    assert warm["sums"] == cold["sums"]
