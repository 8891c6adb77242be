"""Is the stand-in for a floor, where exact arithmetic cannot run, made of one rounding of the inputs?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parity.errors import UsageError
from parity.ladder.calibrate import CleanRun
from parity.ladder.perturb import one_rounding, sample_perturbed
from parity.runner import Request

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import json, sys
from parity.ladder.calibrate import CleanRun
from parity.ladder.perturb import sample_perturbed
from parity.runner import Request, open_runner
model = sys.argv[1]
run = CleanRun(Request("p", tuple(range(70))), "p", 1)
emulations = {order: open_runner(f"recipe:{model}", order=order) for order in (0, 1)}
made = [sample_perturbed(run, emulations=emulations) for _ in range(2)]
alone = sample_perturbed(run, emulations={1: emulations[1]})
worst = [[*k, v] for k, v in made[0].worst.items()]
print(json.dumps([made[0] == made[1], sorted({k.mode for k in alone.worst}), worst]))
"""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_each_element_moves_by_a_step_at_most_and_about_half_of_them_do(dtype: torch.dtype):
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    moved = one_rounding(x, torch.Generator().manual_seed(1))
    assert moved.dtype == dtype
    _, exponent = torch.frexp(x.double())
    step = torch.ldexp(torch.full(x.shape, torch.finfo(dtype).eps, dtype=torch.float64), exponent - 1)
    assert ((moved.double() - x.double()).abs() <= step).all()
    # Uniform on +-1 step, rounded: a half stays. 8192 elements, four standard errors.
    assert abs((moved != x).double().mean().item() - 0.5) < 4 * 0.5 / 8192**0.5
    assert torch.equal(one_rounding(x, torch.Generator().manual_seed(1)), moved)


def test_zeros_and_nothing_stay():
    assert not one_rounding(torch.zeros(3, 2).bfloat16(), torch.Generator()).any()
    assert one_rounding(torch.zeros(0, 2), torch.Generator()).shape == (0, 2)


def test_it_is_refused_beside_an_engine():
    run = CleanRun(Request("p", (1, 2)), "p")
    with pytest.raises(UsageError, match="engine under test"):
        sample_perturbed(run, emulations={})


def test_a_run_gives_the_spread_of_every_stage_and_the_distance_of_another_order(bf16_model: Path):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(bf16_model)],
        capture_output=True, text=True, check=False, timeout=250, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": ".:kernels:oracles", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    same, alone, worst = json.loads(done.stdout)
    assert same
    assert alone == ["chained", "isolated"]
    rows = {(m, s, layer): v for m, s, layer, kind, metric, _, _, _, v in worst if (kind, metric) == ("row", "rel_l2")}
    assert {mode for mode, _, _ in rows} == {"chained", "isolated", "distance"}
    # A linear stage passes on a relative error of 2^-9 or so of its inputs; a floor of zeros would judge nothing.
    for stage in ("attn.q", "moe.gate", "attn.out"):
        assert 2**-11 < rows["isolated", stage, 0] < 2**-6
    assert 0 < rows["chained", "resid.out", 1] < 2**-4
