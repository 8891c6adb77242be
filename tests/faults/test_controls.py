"""Do the negative controls really change arithmetic, and by no more than their own roundings?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.faults import shipped_fault, shipped_faults
from parity.runner import CapturePlan, Request
from parity_kernels.backend import default_device
from parity_kernels.faults.other_arithmetic import fast_exp, summed_backwards_fp8
from parity_kernels.forward.runner import open_runner
from parity_kernels.linear.op import linear_fp8
from parity_kernels.quantize_rows.op import quantize_rows

from .conftest import changed_sites

Prompt = Callable[..., Request]
CONTROLS = sorted(name for name, fault in shipped_faults().items() if fault.control)
FIRST = {
    "rms_eps_variant": ("attn.norm", "mlp.norm", "final_norm"),
    "bf16_rounding_order": ("attn.norm",),
    "fast_exp": ("moe.act",),
    "reduction_order": ("attn.q", "attn.k", "attn.v", "attn.out", "logits"),
    "moe_router_order": ("moe.topk_weights",),
}
"""The stages whose arithmetic each replaces; the first of them that shows it is a matter of luck."""


def test_the_controls_are_those_of_the_catalogue():
    assert set(CONTROLS) == {*FIRST, "residual_growth"}


@pytest.mark.parametrize("name", sorted(FIRST))
def test_a_control_moves_bits_at_its_stage_by_a_rounding(
    name: str, fp8_model: Path, healthy: Callable[..., Any], prompt: Prompt
):
    requests = (prompt(67), prompt(9, 1))
    sound = healthy(requests)
    trace = open_runner(str(fp8_model), fault=name).forward(requests, capture=CapturePlan())
    changed = changed_sites(sound, trace)
    assert changed
    layer, stage = changed[0]
    assert stage in FIRST[name]
    a, b = (t.tensor(t.select(stage=stage, layer=layer)[0]).float() for t in (sound, trace))
    # At the first changed site the inputs are equal bit for bit. One value rounded (or rounded twice) another way is
    # off by at most two units in the last place: 2 * 2^-8 relative in bf16, 2 * 2^-23 in the fp32 of routing weights
    # after a handful of operations. A sum in another order may besides cancel: half a percent of its row's scale.
    rtol, atol = (1e-5, 0.0) if stage == "moe.topk_weights" else (2 * 2.0**-8, 0.0)
    if name == "reduction_order":
        atol = 0.005 * float(a.square().mean().sqrt())
    torch.testing.assert_close(b, a, rtol=rtol, atol=atol)


def test_the_reverse_order_moves_bits_of_fp8_projections_too():
    # Sums of 128 products of E4M3 are nearly exact in fp32: the order of blocks shows, in one bf16 rounding of 10,000.
    random = torch.Generator().manual_seed(0)
    x = torch.randn((300, 1200), generator=random).bfloat16()
    weight = torch.randn((500, 1200), generator=random).to(torch.float8_e4m3fn)
    scale = torch.rand((4, 10), generator=random)
    x, weight, scale = (tensor.to(default_device()) for tensor in (x, weight, scale))
    q, s = quantize_rows(x)
    forwards, reverse = linear_fp8(q, s, weight, scale), summed_backwards_fp8(linear_fp8)(q, s, weight, scale)
    assert not torch.equal(forwards, reverse)
    # Half a percent of the rows' scale: a rounding of bf16, where blocks of either sign cancel too.
    torch.testing.assert_close(reverse, forwards, rtol=2 * 2.0**-8, atol=0.005 * float(forwards.float().std()))


def test_the_false_claim_changes_nothing(fp8_model: Path, healthy: Callable[..., Any], prompt: Prompt):
    assert shipped_fault("residual_growth").claim
    requests = (prompt(17), prompt(9, 1))
    trace = open_runner(str(fp8_model), fault="residual_growth").forward(requests, capture=CapturePlan())
    assert changed_sites(healthy(requests), trace) == []


def test_the_fast_exponential_is_within_its_published_error():
    x = torch.linspace(-20, 20, 100_001)
    error = (fast_exp(x).double() / x.double().exp() - 1).abs().max()
    # 8.8e-5 of the polynomial, and |x| * 2^-24 * ln 2 of the product that splits off the power of two.
    assert 1e-6 < error < 8.8e-5 + 20 * 1.4427 * 2.0**-24
