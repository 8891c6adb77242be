"""Does replay hold one layer's captures at the most, or the model's?"""

from __future__ import annotations

import sys

import pytest

from benchmarks.replay import measure_apart

MEGABYTE = 1 << 20
"""Allowed beside: small allocations, which the allocator keeps."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")
@pytest.mark.parametrize("hold", [False, True])
def test_replay_of_all_layers_grows_by_less_than_the_captures_of_one(hold: bool):
    """Exact and emulated replay of four layers over 512 positions; a replay that held its sites is caught."""
    found = measure_apart("moe-tiny-fp8", "fp8_block", 512, 1, hold=hold)
    assert found["sites_replayed"] == 87
    limit = found["largest_layer_bytes"] + MEGABYTE
    assert (found["layers_grew_bytes"] > 2 * limit) if hold else (found["layers_grew_bytes"] <= limit), found
    # Outside the layers the logits alone are larger than a layer: exact and emulated, and nothing else that counts.
    if not hold:
        assert found["outside_grew_bytes"] <= 2 * found["outside_layers_bytes"] + 8 * MEGABYTE, found
