"""The emulation of ggml's recipes: Q8_0 as its package rounds, attention through a narrow cache, the rest in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.audit.recognize import holds
from parity.audit.tensors import probe_tensor
from parity.errors import ShapeError
from parity.ladder.replay import Replay
from parity.runner import CapturePlan, Request
from parity_oracles.recipes import ARITHMETICS, ORDERS
from parity_oracles.recipes.attention import attend
from parity_oracles.recipes.formats import round_q8_0
from parity_oracles.recipes.runner import open_runner

REQUEST = Request("a", tuple(number * 7 % 211 for number in range(40)))
NAMES = [name for name in ARITHMETICS if name.startswith("ggml_")]


@pytest.fixture(scope="module")
def folder(make_model: Callable[..., Path]) -> Path:
    return make_model(hidden_size=96, moe_intermediate_size=160)


def test_q8_0_is_the_packages() -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q8_0
    x = torch.randn(7, 96, generator=torch.Generator().manual_seed(0))
    x[0] = 0
    x[1, 40] = 1e4
    x[2] = x[2].bfloat16().float()  # ties
    theirs = gguf.quants.dequantize(gguf.quants.quantize(x.numpy(), kind), kind)
    np.testing.assert_array_equal(round_q8_0(x).numpy(), theirs)
    even = round_q8_0(torch.tensor([127.0, 0.5, 1.5, -0.5] + [0.0] * 28), half_even=True)
    assert even[:4].tolist() == [127, 0, 2, 0]
    assert round_q8_0(torch.tensor([127.0, 0.5, 1.5, -0.5] + [0.0] * 28))[:4].tolist() == [127, 1, 2, -1]
    with pytest.raises(ShapeError, match="33"):
        round_q8_0(torch.zeros(2, 33))


def test_an_audit_knows_a_matrix_that_was_quantized_from_one_that_was_changed(folder: Path) -> None:
    """Of the checkpoint's tensors on the grid of Q8_0; one element a step away is another tensor, a norm has no such
    form, and nobody has it who does not say that he quantizes."""
    runner = open_runner(str(folder))
    name = "model.layers.0.self_attn.q_proj.weight"
    plain, known = ({one.name: one for one in runner.stored(held=held)} for held in ("", "q8_0"))
    values = runner.checkpoint.weight(name)
    quantized = round_q8_0(values) + 0.0
    assert holds(probe_tensor(quantized), known[name]) == "q8_0"
    assert holds(probe_tensor(quantized), plain[name]) is None
    moved = quantized.clone()
    moved[3, 5] += values.abs().max() / 127
    assert holds(probe_tensor(moved), known[name]) is None
    assert holds(probe_tensor(values), known[name]) is not None
    assert "q8_0" not in known["model.norm.weight"].forms


@pytest.mark.parametrize("name", NAMES)
def test_only_products_and_the_cache_are_narrow(name: str, folder: Path) -> None:
    """Against exact arithmetic on the same inputs: norms, rope, sums and the router round nothing."""
    runner = open_runner(str(folder), recipe=name)
    assert runner.describe().recipe.name == name
    trace = runner.forward([REQUEST], capture=CapturePlan())
    off = {
        record.stage: record.whole["rel_l2"]
        for record in Replay(trace, runner).compare(floor=None).comparisons
        if record.layer == 1 and "rel_l2" in record.whole
    }
    weights = ARITHMETICS[name].linear
    products = {"attn.q", "attn.k", "attn.v", "attn.out", "moe.gate", "moe.up", "moe.down"}
    # Relative size of one rounding, averaged over a binade: 2^-p/sqrt(3) for BF16 (p = 9, both operands); for Q8_0
    # 1/(127 sqrt 12) of the largest of a block, some three times the rms.
    expected = {"exact": (0, 1e-6), "bf16": (5e-4, 4e-3), "q8_0": (2e-3, 2e-2)}[weights]
    cache = (2e-5, 5e-3) if ARITHMETICS[name].cache is not None else (0, 1e-6)  # of F16: p = 11, less by averaging
    for stage, value in off.items():
        low, high = expected if stage in products else cache if stage == "attn.context" else (0, 1e-6)
        assert low <= value <= high, stage


def test_fused_attention_is_softmax_over_a_narrow_cache() -> None:
    """Key after key, and by a whole softmax: both round to F16, where they may; 2^-11 a step, over 50 steps."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(50, heads, 16, generator=generator) for heads in (4, 2, 2))
    positions = torch.arange(50)

    def out(name: str) -> torch.Tensor:
        return attend(q, k, v, positions=positions, arithmetic=ARITHMETICS[name], order=ORDERS[0])

    exact = out("fp32")
    for name in ("ggml_f32_kv_f16", "ggml_f32_kv_f16_flash"):
        error = float((out(name) - exact).norm() / exact.norm())
        assert 1e-5 < error < 50**0.5 * 2**-11
    assert torch.equal(out("ggml_f32_kv_f32"), exact)
    first = out("ggml_f32_kv_f16_flash")[0]
    assert torch.equal(first, v[0].half().float().repeat_interleave(2, 0))  # position 0 sees itself alone


def test_orders_are_orders_of_the_same(folder: Path) -> None:
    """Strict orders differ from the plain one, and by far less than the recipe does from exact arithmetic."""
    plain = open_runner(str(folder), recipe="ggml_bf16_kv_f16").logits([REQUEST])
    exact = open_runner(str(folder), recipe="fp32").logits([REQUEST])
    away = float((plain - exact).norm())
    for order in (1, 2, 3):
        other = open_runner(str(folder), recipe="ggml_bf16_kv_f16", order=order).logits([REQUEST])
        assert 0 < float((other - plain).norm()) < away
