"""Are the detectors silent on the noise of a healthy engine, and calm on every degenerate field?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from parity.errors import DtypeError, ShapeError
from parity.fingerprint import DETECTORS, ErrorField, read_fingerprints
from parity.fingerprint.causes import NONFINITE

STAGES = (
    "attn.norm", "attn.q", "attn.k", "attn.v", "attn.q_norm", "attn.q_rope", "attn.k_rope", "attn.context", "attn.out",
    "resid.mid", "mlp.norm", "moe.router_logits", "moe.topk_weights", "moe.gate", "moe.up", "moe.down",
    "moe.experts",
)  # fmt: skip


@pytest.mark.parametrize("noise", ["fp8", "bf16"])
@pytest.mark.parametrize("size", range(3))
@pytest.mark.parametrize("stage", STAGES)
def test_silent_on_noise(lab, stage, size, noise):
    for seed in range(3):
        found = read_fingerprints(lab(size, seed, noise).field(stage))
        assert not found, [(f.cause, f.score, f.numbers) for f in found]


@pytest.mark.parametrize("stage", ["attn.out", "attn.q", "moe.down", "moe.gate"])
def test_silent_where_the_operands_are_rounded_to_fp8(lab, stage):
    """Blocks of 128 inputs scaled to E4M3 on both sides, as the recipe of block FP8 does, instead of drawn noise."""
    made = lab(1)
    source = {"attn.out": "attn.context", "attn.q": "attn.norm", "moe.down": "moe.act", "moe.gate": "mlp.norm"}[stage]
    x, weight = (
        rounded(made.tensors[source].flatten(1) if stage.startswith("attn") else made.tensors[source]),
        rounded(made.weights[stage]),
    )
    if stage.startswith("attn"):
        value = (x @ weight.T).view(made.tensors[stage].shape)
    else:
        ids = made.tensors["moe.topk_ids"].long()
        value = made.by_expert(weight, x if x.ndim == 3 else x[:, None].expand(-1, 2, -1), ids)
    assert read_fingerprints(made.field(stage, value.bfloat16(), noisy=False)) == ()


def rounded(values: torch.Tensor) -> torch.Tensor:
    parts = []
    for part in values.split(128, -1):
        scale = part.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
        parts.append((part / scale).to(torch.float8_e4m3fn).float() * scale)
    return torch.cat(parts, -1)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("bits", [math.nan, math.inf])
def test_rows_that_are_not_finite_and_no_other_error_are_said(lab, stage, bits):
    """Where kernels give the emulation's bits, the other rows have no error at all, sampled ones too."""
    field = lab(1).field(stage, noisy=False)
    sut = field.sut.clone()
    sut[177:180] = bits
    found = read_fingerprints(field.with_sut(sut))
    assert NONFINITE in [one.cause for one in found]


def test_silent_without_any_error_and_without_elements(lab):
    field = lab(0).field("attn.q")
    assert read_fingerprints(field.with_sut(field.oracle)) == ()
    for shape in ((0, 4, 16), (8, 0, 16), (8, 4, 0)):
        empty = ErrorField("attn.q", 0, torch.zeros(shape), torch.zeros(shape), ("T", "H", "K"))
        assert read_fingerprints(empty) == ()
        assert all(detect(empty) is None for detect in DETECTORS)


def degenerate() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    y = torch.randn(40, 4, 16, generator=g)
    noise = 0.02 * torch.randn(y.shape, generator=g)
    return {
        "one row": (y[:1], y[:1] * 1.5),
        "one head": (y[:, :1], y[:, :1] + noise[:, :1]),
        "one element": (y[:1, :1, :1], y[:1, :1, :1] + 1),
        "zero oracle": (y * 0, y),
        "zero sut": (y, y * 0),
        "both zero in rows": (torch.cat([y[:20] * 0, y[20:]]), torch.cat([y[:20] * 0, (y + noise)[20:]])),
        "constant oracle": (y * 0 + 2.5, y * 0 + 2.5 + noise),
        "all NaN": (y, y * math.nan),
        "NaN in both": (torch.where(y > 2, math.nan, y), torch.where(y > 2, math.nan, y + noise)),
        "NaN oracle": (y * math.nan, y),
        "infinite": (y, torch.where(y > 1, math.inf, y)),
        "garbage": (y, torch.where(y > 1, 3e38, y)),
        "tiny": (y * 1e-20, y * 1e-20 + noise * 1e-20),
        "huge": (y * 1e30, (y + noise) * 1e30),
        "bf16 against fp32": (y, (y + noise).bfloat16()),
        "fp32 against bf16": (y.bfloat16(), y + noise),
        "fp16 against fp64": (y.half(), (y + noise).double()),
        "e4m3 sut": (y, y.to(torch.float8_e4m3fn)),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", degenerate())
def test_degenerate_fields_are_read_without_a_warning(name):
    oracle, sut = degenerate()[name]
    for stage, axes in (
        ("attn.q_rope", ("T", "H", "K")),
        ("attn.context", ("T", "H", "K")),
        ("moe.gate", ("T", "S", "F")),
    ):
        ids = np.arange(oracle.shape[0] * oracle.shape[1]).reshape(oracle.shape[:2]) % 3
        geometry = {"expert": ids, "row_in_expert": ids // 3 * 5} if stage == "moe.gate" else {}
        inputs = {"attn.q_norm": oracle, "attn.q_rope": oracle, "attn.k_rope": oracle, "attn.v": oracle}
        field = ErrorField(stage, 0, oracle, sut, axes, inputs=inputs, hyper={"rope_theta": 1e4}, **geometry)
        found = read_fingerprints(field)
        assert all(0 < f.score <= 1 and math.isfinite(f.score) for f in found), found
        assert all(f.sentence.endswith(".") for f in found)


def test_what_cannot_be_a_field_is_refused():
    y = torch.zeros(4, 8)
    with pytest.raises(ShapeError, match="one shape"):
        ErrorField("attn.out", 0, y, y[:2], ("T", "D"))
    with pytest.raises(ShapeError, match="axes"):
        ErrorField("attn.out", 0, y, y, ("T",))
    with pytest.raises(DtypeError, match="int32"):
        ErrorField("attn.out", 0, y.int(), y, ("T", "D"))
