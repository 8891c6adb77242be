"""Are heads normed, rounded and rotated by their positions, q and k each with its own weight?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from dataclasses import replace

import pytest
import torch

from parity.errors import DtypeError, ShapeError, ValueRangeError
from parity_kernels.backend import interpreted
from parity_kernels.launch import ceil_div
from parity_kernels.qk_norm_rope.launch import qk_norm_rope_launch
from parity_kernels.qk_norm_rope.op import qk_norm_rope
from parity_kernels.qk_norm_rope.reference import (
    head_norm_bound,
    head_norm_reference,
    rope_bound,
    rope_reference,
)

# tokens, query heads, kv heads, head dim: rows (tokens x heads) around tiles; odd halves; as many kv as query heads.
SIZES = [
    (0, 6, 2, 64), (1, 1, 1, 2), (1, 6, 2, 64), (3, 5, 1, 64), (2, 4, 4, 6), (17, 6, 2, 64), (9, 32, 4, 128),
    (5, 8, 1, 256),
]  # fmt: skip
EPS = 1e-6


class Case:
    """Inputs with every head at its own size, q and k weights apart, and positions far from zero and out of order."""

    def __init__(self, n_tokens: int, heads: int, kv_heads: int, dim: int, draw: torch.Generator, device: torch.device):
        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw)

        def sized(count: int, low: float, high: float) -> torch.Tensor:
            wide = randn(n_tokens, count, dim) * torch.logspace(low, high, count)[:, None]
            return wide.to(torch.bfloat16).to(device)

        self.q, self.k = sized(heads, -2, 2), sized(kv_heads, 1, -1)
        self.q_weight = (1 + randn(dim) / 2).to(torch.bfloat16).to(device)
        self.k_weight = (1 + randn(dim) / 2).to(torch.bfloat16).to(device)
        self.positions = torch.randperm(4000, generator=draw)[:n_tokens].to(device)
        self.inv_freq = (1e4 ** (-torch.arange(dim // 2) * 2.0 / dim)).to(device)

    def run(self, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = (self.q, self.k, self.q_weight, self.k_weight, self.positions, self.inv_freq)
        return qk_norm_rope(*inputs, eps=EPS, **options)  # type: ignore[arg-type]

    def poisoned(self) -> dict[str, torch.Tensor]:
        names = {"q_norm_out": self.q, "out_q": self.q, "k_norm_out": self.k, "out_k": self.k}
        return {name: torch.full_like(like, float("nan")) for name, like in names.items()}


def _exceeds_norm(found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> bool:
    reference = head_norm_reference(x, weight, eps=eps)
    return not bool(((found.double() - reference).abs() <= head_norm_bound(reference)).all())


def _exceeds_rope(found: torch.Tensor, normed: torch.Tensor, positions: torch.Tensor, inv_freq: torch.Tensor) -> bool:
    reference = rope_reference(normed, positions, inv_freq)
    return not bool(((found.double() - reference).abs() <= rope_bound(normed, reference)).all())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_norm_and_rope_are_within_their_bounds(size, dtype, device, generator) -> None:
    """Each against fp64 on its own bf16 input (rope on the probe of the norm): bounds derived in reference.py."""
    case = Case(*size, generator, device)
    case.positions = case.positions.to(dtype)
    buffers = case.poisoned()
    out_q, out_k = case.run(**buffers)
    assert out_q is buffers["out_q"]
    assert not _exceeds_norm(buffers["q_norm_out"], case.q, case.q_weight)
    assert not _exceeds_norm(buffers["k_norm_out"], case.k, case.k_weight)
    assert not _exceeds_rope(out_q, buffers["q_norm_out"], case.positions, case.inv_freq)
    assert not _exceeds_rope(out_k, buffers["k_norm_out"], case.positions, case.inv_freq)


@pytest.mark.parametrize("size", SIZES)
def test_probes_change_no_bit(size, device, generator) -> None:
    case = Case(*size, generator, device)
    with_probes = case.run(**case.poisoned())
    for one, other in zip(with_probes, case.run(), strict=True):
        assert torch.equal(one, other)


def test_defects_exceed_the_bounds(device, generator) -> None:
    """Planted in the reference: weights exchanged, eps, head neighbour, position + 1, no rope, interleaved pairs."""
    case = Case(17, 6, 2, 64, generator, device)
    buffers = case.poisoned()
    out_q, out_k = case.run(**buffers)
    q_norm, k_norm = buffers["q_norm_out"], buffers["k_norm_out"]
    assert _exceeds_norm(q_norm, case.q, case.k_weight)
    assert _exceeds_norm(q_norm, case.q, case.q_weight, eps=1e-5)
    assert _exceeds_norm(k_norm, case.k.roll(1, 1), case.k_weight)
    assert _exceeds_rope(out_q, q_norm, case.positions + 1, case.inv_freq)
    assert _exceeds_rope(out_k, k_norm, case.positions * 0, case.inv_freq)
    assert _exceeds_rope(out_q, q_norm, case.positions, case.inv_freq.flip(0))
    interleaved = q_norm.unflatten(-1, (32, 2)).transpose(-1, -2).flatten(-2)
    assert _exceeds_rope(out_q, interleaved, case.positions, case.inv_freq)
    unrounded = head_norm_reference(case.q, case.q_weight, eps=EPS)
    reference = rope_reference(unrounded, case.positions, case.inv_freq)
    assert ((out_q.double() - reference).abs() > rope_bound(q_norm, reference)).any(), "the rounding between is missing"


@pytest.mark.parametrize("tile", [1, 4, 64])
def test_bits_do_not_depend_on_the_tile(tile, device, generator) -> None:
    """Interpreted. Compiled, a tile of another height can sum a head in another order, so one height serves all."""
    case = Case(9, 6, 2, 64, generator, device)
    launch = qk_norm_rope_launch(n_tokens=9, n_heads=6, n_kv_heads=2, head_dim=64)
    if not interpreted():
        assert qk_norm_rope_launch(n_tokens=1, n_heads=6, n_kv_heads=2, head_dim=64).block == launch.block
        return
    tiled = replace(launch, grid=(ceil_div(54, tile), 2), block={**launch.block, "m": tile})
    for one, other in zip(case.run(), case.run(launch=tiled), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (2, 2), (2, 6)])
def test_the_launch_says_what_it_covers(heads, kv_heads, device, generator) -> None:
    """Planted: half the tiles leave the later tokens unwritten, and the record is truncated."""
    case = Case(16, heads, kv_heads, 64, generator, device)
    launch = qk_norm_rope_launch(n_tokens=16, n_heads=heads, n_kv_heads=kv_heads, head_dim=64)
    assert not launch.truncated
    rows = 8 * max(heads, kv_heads)
    short = replace(launch, grid=(rows, 2), block={**launch.block, "m": 1}, covers={"q_rows": rows, "k_rows": rows})
    assert short.truncated
    out_q, out_k = case.run(**case.poisoned(), launch=short)
    more, fewer = (out_q, out_k) if heads >= kv_heads else (out_k, out_q)
    assert not more[:8].isnan().any()
    assert more[8:].isnan().all()
    assert not fewer[:8].isnan().any()


def test_slices_of_a_fused_projection_and_in_place(device, generator) -> None:
    case = Case(7, 6, 2, 64, generator, device)
    wanted = case.run()
    fused = torch.cat((case.q, case.k, case.k), dim=1)
    case.q, case.k = fused[:, :6], fused[:, 6:8]
    for one, other in zip(case.run(), wanted, strict=True):
        assert torch.equal(one, other)
    untouched = fused[:, 8:].clone()
    for one, other in zip(case.run(out_q=case.q, out_k=case.k), wanted, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(fused[:, 8:], untouched)


def test_what_it_refuses(device, generator) -> None:
    case = Case(4, 6, 2, 64, generator, device)
    inputs = {
        "q": case.q, "k": case.k, "q_weight": case.q_weight, "k_weight": case.k_weight, "positions": case.positions,
        "inv_freq": case.inv_freq, "eps": EPS,
    }  # fmt: skip
    for change, error, place in (
        ({"q": case.q.float()}, DtypeError, "q"),
        ({"k": case.k[:3]}, ShapeError, "k"),
        ({"q": case.q.transpose(1, 2).contiguous().transpose(1, 2)}, ShapeError, "q"),
        ({"k_weight": case.k_weight[:32]}, ShapeError, "k_weight"),
        ({"positions": case.positions.float()}, DtypeError, "positions"),
        ({"positions": case.positions[:3]}, ShapeError, "positions"),
        ({"inv_freq": case.inv_freq.double()}, DtypeError, "inv_freq"),
        ({"q": case.q[..., :63], "k": case.k[..., :63]}, ShapeError, "q"),
        ({"eps": 0.0}, ValueRangeError, "eps"),
        ({"out_q": case.k}, ShapeError, "out_q"),
        ({"k_norm_out": case.k.float()}, DtypeError, "k_norm_out"),
    ):
        with pytest.raises(error, match=place):
            qk_norm_rope(**{**inputs, **change})
