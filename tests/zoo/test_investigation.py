"""A cross-section of the zoo with the real engine and the real investigation, on a small random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from parity.zoo import Campaign, collect_faults, run_zoo


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_two_faults_one_control_one_clean_run(tmp_path: Path, fp8_model: Path):
    """Two faults that no floor can hide are seen and placed, the other cases left alone; which cause is named and
    whether the proof holds is for the zoo's own numbers."""
    random = torch.Generator().manual_seed(7)
    (tmp_path / "prompts").mkdir()
    for number in range(24):
        ids = torch.randint(0, 80, (300,), generator=random).tolist()
        (tmp_path / "prompts" / f"{number:02}.json").write_text(json.dumps({"name": f"text-{number}", "ids": ids}))
    campaign = Campaign(
        out=tmp_path / "out",
        models=(fp8_model,),
        prompts=(tmp_path / "prompts",),
        floors=(),
        tokens=(256, 300),
        new_tokens=4,
        clean=1,
        timeout=600,
    )
    result = run_zoo(collect_faults(only=["moe_tile_truncation", "qk_norm_missing", "fast_exp"]), campaign)
    assert [one.error for one in (*result.faults, *result.controls, *result.clean) if one.error] == []
    assert {one.name: (one.detected, one.localized) for one in result.faults} == {
        "moe_tile_truncation": (True, True), "qk_norm_missing": (True, True),
    }  # fmt: skip
    assert all(one.forwards and one.seconds > 0 for one in result.faults)
    assert [one.blamed for one in result.controls] == [False]
    assert [one.alarm for one in result.clean] == [False]
    assert result.exit_code == 0
    assert list((tmp_path / "out" / "floors").glob("fp8_block-*.json")), "no stored floor fits: one is calibrated"
