"""X and X / 100: the claim about the residual's size is refuted by a norm, and a missing norm is said to be missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import load_file

from parity.decode import falsify_residual_scale
from parity.errors import UsageError
from parity.runner import open_runner

Make = Callable[..., Any]


@pytest.mark.parametrize("can", [None, {"forward", "replay"}])
def test_a_norm_refutes_the_claim_with_both_numbers(recipe: Any, engine: Make, prompt: Make, can: Any):
    runner = recipe
    if can is not None:
        runner = engine(can=can)
        runner.replay = recipe.replay
    found = falsify_residual_scale(runner, prompt(11))
    assert found.verdict == "refuted", found.sentence
    assert found.numbers["logits_cosine"] > 0.99
    a, b = found.numbers["argmax_last"]
    assert a == b
    assert found.exponent == pytest.approx(0, abs=0.01)
    assert "Refuted" in found.paste
    assert "logits_cosine" in found.paste


def test_the_shipped_faults(fp8_model: Path, prompt: Make):
    control = falsify_residual_scale(open_runner(f"triton:{fp8_model}", fault="residual_growth"), prompt(8))
    assert control.verdict == "refuted", control.sentence
    missing = falsify_residual_scale(open_runner(f"triton:{fp8_model}", fault="final_norm_missing"), prompt(8))
    assert missing.verdict == "no_norm", missing.sentence
    # Without a norm argmax and cosine stay as they were: they alone would have refuted the claim.
    assert missing.numbers["logits_cosine"] > 0.9999
    assert missing.exponent == pytest.approx(1, abs=0.01)


def test_a_residual_that_eps_swallows_concludes_nothing(bf16_model: Path, write_model: Make, prompt: Make):
    tensors = {
        name: value * 1e-7 if "embed" in name or "o_proj" in name or "down_proj" in name else value
        for name, value in load_file(bf16_model / "model.safetensors").items()
    }
    runner = open_runner(f"recipe:{write_model(tensors=tensors)}")
    found = falsify_residual_scale(runner, prompt(9))
    assert found.verdict == "unresolved", found.sentence
    assert "eps" in found.sentence


def test_a_residual_that_reaches_the_head_in_another_way_is_no_norm_either(recipe: Any, prompt: Make):
    class Halved:
        """Its final norm lets the square root of the scale through."""

        def describe(self) -> Any:
            return recipe.describe()

        def forward(self, requests: Any, *, graft: Any = (), **rest: Any) -> Any:
            trace = recipe.forward(requests, graft=graft, **rest)
            if graft:
                trace.tensor(trace.select(stage="final_norm")[0]).mul_(0.1)
            return trace

    found = falsify_residual_scale(cast(Any, Halved()), prompt(9))
    assert found.verdict == "scale_dependent"
    assert found.exponent == pytest.approx(0.5, abs=0.05)


def test_too_short_a_prompt_is_refused(recipe: Any, prompt: Make):
    with pytest.raises(UsageError, match="at least 8 ids"):
        falsify_residual_scale(recipe, prompt(7))
