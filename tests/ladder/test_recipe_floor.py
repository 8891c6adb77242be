"""A floor for an engine that has none: of the recipe it states, on other prompts, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.errors import UsageError
from parity.ladder.recipe_floor import RUNS, calibrate_recipe
from parity.runner import Request


def test_too_few_prompts_and_a_recipe_that_nobody_emulates_are_refused(fp8_model: Path):
    requests = [Request(f"p{number}", tuple(range(number, number + 9))) for number in range(RUNS + 3)]
    with pytest.raises(UsageError, match="3"):
        calibrate_recipe("bf16", str(fp8_model), requests[:3])
    with pytest.raises(UsageError, match="ggml_q4_k"):
        calibrate_recipe("ggml_q4_k_kv_f16", str(fp8_model), requests)


@pytest.mark.long
def test_it_is_of_the_recipe_asked_for_and_of_the_longest_prompts(fp8_model: Path):
    requests = [Request(f"p{number:02}", tuple(range(4 + number))) for number in range(RUNS + 2)]
    floor = calibrate_recipe("ggml_f32_kv_f16", str(fp8_model), requests, longest=8)
    assert floor.recipe.name == "ggml_f32_kv_f16"
    assert floor.recipe.kv_cache == "f16"
    assert len(floor.runs) == RUNS
    assert not {"p00", "p01"} & set(floor.documents)
    assert set(floor.gates) >= {"chained", "isolated", "distance"}
