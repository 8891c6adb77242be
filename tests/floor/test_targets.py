"""Do the shipped floors see half a percent and one lost row in every layer, planted in emulation runs?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.parametrize("recipe", ["bf16", "fp8_block"])
@pytest.mark.parametrize("orders", [(1, 6)])
def test_every_target_is_seen_at_every_site(recipe: str, orders: tuple[int, ...]):
    """Orders of plain fp32 sums and of a GPU's matrix unit; 22 stages of four layers, their experts of 64 rows."""
    done = subprocess.run(
        [sys.executable, "-m", "fixtures.floors.targets", recipe, "--orders", *map(str, orders), "--jobs", "2"],
        capture_output=True, text=True, check=False, timeout=900, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": ".:kernels:oracles", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["tried"] > 2 * 2 * 80
    assert not [(m["run"], m["site"], m["target"], m["alarm"]) for m in result["missed"]]
