"""Is silu(gate) * up within one bf16 rounding, and its quantization bit for bit what the recipe says?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import pytest
import torch

from parity.errors import DtypeError, ShapeError
from parity_kernels.silu_mul.launch import silu_mul_launch, silu_mul_quant_launch
from parity_kernels.silu_mul.op import silu_mul, silu_mul_quant
from parity_kernels.silu_mul.reference import group_scale_reference, silu_mul_reference

FP8 = torch.float8_e4m3fn
U_BF16, U_FP32, U_E4M3 = 2.0**-8, 2.0**-24, 2.0**-4
# Rows around the compiled tile (16) and the interpreted one (1024); columns around a group of 128, and F = 160.
SHAPES = [(0, 160), (1, 160), (15, 127), (16, 128), (17, 129), (3, 1), (1025, 40)]


def make(rows, width, generator, device):
    return (3 * torch.randn(rows, 2, width, generator=generator)).to(torch.bfloat16).to(device)


def bound(gate_up):
    """exp: its argument is off by U_FP32 |gate| (times log2 e where exp is an exp2), its value by 2 ulp; three more
    fp32 roundings, two of them possibly 2-ulp divisions; then one rounding to bf16. Where exp(-gate) overflows fp32
    (gate < -88.7) the kernel gives 0 for |gate| exp(gate) < 3e-37, and the smallest bf16 is 2^-133."""
    gate, up = gate_up[:, 0].double().abs(), gate_up[:, 1].double().abs()
    relative = U_BF16 + (2 * gate + 16) * U_FP32
    return relative * 1.01 * silu_mul_reference(gate_up).abs() + 3e-37 * up + 2.0**-134


def quantized_as_the_recipe_says(act):
    """From bf16 act, in fp32 with IEEE division and round to nearest even: the bits that q and s must have."""
    groups_q, groups_s = [], []
    for group in act.float().split(128, dim=1):
        scale = group.abs().amax(dim=1, keepdim=True).clamp_min(1e-10) / 448
        groups_q.append((group / scale).clamp(-448, 448).to(FP8))
        groups_s.append(scale)
    return torch.cat(groups_q, dim=1), torch.cat(groups_s, dim=1)


def poisoned(rows, width, device):
    def nan(shape, dtype):
        return torch.full(shape, float("nan"), device=device).to(dtype)

    groups = -(-width // 128)
    return nan((rows, width), torch.bfloat16), nan((rows, width), FP8), nan((rows, groups), torch.float32)


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_act_within_the_bound(rows, width, generator, device, beyond):
    gate_up = make(rows, width, generator, device)
    out, _, _ = poisoned(rows, width, device)
    assert silu_mul(gate_up, out=out) is out
    assert beyond(out, silu_mul_reference(gate_up), bound(gate_up)) == 0


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_quantization_is_bit_equal_and_the_probe_shows_what_was_quantized(rows, width, generator, device, beyond):
    gate_up = make(rows, width, generator, device)
    act, q, s = poisoned(rows, width, device)
    silu_mul_quant(gate_up, act_out=act, out_q=q, out_s=s)
    assert beyond(act, silu_mul_reference(gate_up), bound(gate_up)) == 0
    want_q, want_s = quantized_as_the_recipe_says(act.cpu())
    assert torch.equal(q.cpu().view(torch.uint8), want_q.view(torch.uint8))
    assert torch.equal(s.cpu(), want_s)
    assert torch.equal(silu_mul(gate_up), act)
    without = silu_mul_quant(gate_up)
    assert torch.equal(without[0].view(torch.uint8), q.view(torch.uint8))
    assert torch.equal(without[1], s)


def test_dequantized_against_fp64(generator, device, beyond):
    """q * s against the fp64 product: act is off by `bound`, then half a step of E4M3 (U_E4M3 of the value, or half of
    the smallest subnormal 2^-9 times s); s and the division add a few U_FP32."""
    gate_up = make(40, 300, generator, device)
    q, s = silu_mul_quant(gate_up)
    wide = s.double().repeat_interleave(128, dim=1)[:, :300]
    want = silu_mul_reference(gate_up)
    act_bound = bound(gate_up)
    step = U_E4M3 * (want.abs() + act_bound) + 2.0**-10 * wide
    assert beyond(q.double() * wide, want, act_bound + step * 1.001) == 0
    scale = group_scale_reference(want)
    # amax of a group is off by one bf16 rounding, and a little for exp.
    assert beyond(s, scale, scale * (U_BF16 + 2.0**-15)) == 0
    # Planted defect: the scale of the neighbouring group.
    assert beyond(q.double() * wide.roll(128, dims=1), want, act_bound + step * 1.001) > 1000


def test_swapped_parts_would_be_seen(generator, device, beyond):
    """Planted defect: up where gate should be."""
    gate_up = make(20, 64, generator, device)
    assert beyond(silu_mul(gate_up.flip(1).contiguous()), silu_mul_reference(gate_up), bound(gate_up)) > 1000


def test_extremes(device):
    """All zeros: the scale is 1e-10 / 448, not 0; the largest value of a group becomes 448; far-away gates give 0."""
    gate_up = torch.zeros(4, 2, 130, dtype=torch.bfloat16, device=device)
    gate_up[1, 0], gate_up[1, 1] = 20.0, 3.0
    gate_up[2, 0], gate_up[2, 1] = -200.0, 3.0
    gate_up[3, :, 5] = float("nan")
    act, q, s = poisoned(4, 130, device)
    silu_mul_quant(gate_up, act_out=act, out_q=q, out_s=s)
    assert torch.equal(s[0].cpu(), torch.tensor([1e-10, 1e-10]) / 448)
    assert (q[1].float() == 448).all()
    assert (act[2] == 0).all()
    assert q[3].float().isnan().nonzero().flatten().tolist() == [5]
    assert s.isfinite().all()


def test_strided_input(generator, device):
    gate_up = make(6, 160, generator, device)
    wide = torch.cat([gate_up, gate_up], dim=2)[:, :, :160]
    assert torch.equal(silu_mul(wide), silu_mul(gate_up))
    parts_first = gate_up.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(silu_mul(parts_first), silu_mul(gate_up))


def test_misuse_raises_before_launch(generator, device):
    gate_up = make(4, 32, generator, device)
    with pytest.raises(DtypeError, match="gate_up"):
        silu_mul(gate_up.float())
    with pytest.raises(ShapeError, match="gate_up"):
        silu_mul(gate_up[:, :1])
    with pytest.raises(ShapeError, match="contiguous"):
        silu_mul_quant(gate_up.transpose(0, 2).contiguous().transpose(0, 2))
    with pytest.raises(DtypeError, match="out_s"):
        silu_mul_quant(gate_up, out_s=torch.empty(4, 1, dtype=torch.float64, device=device))


@pytest.mark.parametrize(("rows", "width"), SHAPES[1:])
def test_launch_covers(rows, width):
    assert not silu_mul_launch(n_rows=rows, width=width).truncated
    assert not silu_mul_quant_launch(n_rows=rows, width=width).truncated
