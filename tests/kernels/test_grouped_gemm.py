"""Does every row meet its own expert's weight and scales, and does a short grid leave exactly its rows unwritten?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from dataclasses import replace

import pytest
import torch

from parity.errors import DtypeError, ShapeError
from parity_kernels.backend import interpreted
from parity_kernels.grouped_gemm.launch import TILE_ROWS, grouped_gemm_launch
from parity_kernels.grouped_gemm.op import grouped_gemm_bf16, grouped_gemm_fp8
from parity_kernels.grouped_gemm.reference import dequantize_blocks, dequantize_rows, grouped_gemm_reference

FP8 = torch.float8_e4m3fn
U_BF16, ULP_FP32 = 2.0**-8, 2.0**-23
# An E4M3 wgmma (32 deep) aligns its 32 products and the accumulator to the largest of them and keeps 13 bits below it
# (DeepSeek-V3, arXiv 2412.19437, section 3.3.2, measured "around 14 bits"): 33 addends off by 2^-13 of the sum of
# magnitudes at worst, four times in a block of 128. Interpreted dots are one fp32 rounding of an exact sum.
DOT_FP8 = 128 * ULP_FP32 if interpreted() else 4 * 33 * 2.0**-13

# Rows of each expert: none, one, one below, at and above a tile and two tiles; all on one expert; a skew of 7.
COUNTS = {
    "edges": [0, 1, 63, 64, 65, 0, 127, 129],
    "all_on_one": [0, 0, 150, 0],
    "skew_7": [210, 20, 10, 30, 0, 0, 10, 0, 20],
    "none": [0, 0, 0],
}
# columns, depth: edge blocks both ways (F = 160), several blocks, a single partial block; 2 parts and 1.
SHAPES = [(2, 160, 384), (1, 384, 160), (2, 128, 128), (1, 40, 300), (2, 129, 33)]


class Case:
    """Random operands of one grouped GEMM. Row r of expert e takes x[index[r]] (or x[r])."""

    def __init__(self, counts, parts, columns, depth, generator, device, *, gathered=True):
        experts, self.rows = len(counts), sum(counts)
        self.offsets = torch.tensor([0, *counts]).cumsum(0).to(torch.int32).to(device)
        tokens = max(self.rows // 2, max(counts), 1) if gathered else self.rows
        self.index = None
        if gathered:
            order = [torch.randperm(tokens, generator=generator)[:count] for count in counts]
            self.index = torch.cat(order).to(torch.int32).to(device)
        self.x = torch.randn(tokens, depth, generator=generator).to(torch.bfloat16).to(device)
        weight = torch.randn(experts, parts, columns, depth, generator=generator)
        self.weight = (weight / depth**0.5).to(torch.bfloat16).to(device)
        blocks = (-(-columns // 128), -(-depth // 128))
        # Scales a factor of 8 apart: a wrong one shows.
        self.scale = (2.0 ** (3 * torch.rand(experts, parts, *blocks, generator=generator) - 8)).to(device)
        self.weight_q = (weight * 100).clamp(-448, 448).to(FP8).to(device)
        self.x_s = (2.0 ** (3 * torch.rand(tokens, blocks[1], generator=generator) - 6)).to(device)
        self.x_q = (torch.randn(tokens, depth, generator=generator) * 100).clamp(-448, 448).to(FP8).to(device)
        self.tokens, self.parts, self.columns = tokens, parts, columns
        self.launch = grouped_gemm_launch(
            op="test",
            n_tokens=tokens,
            top_k=2,
            n_experts=experts,
            n_cols=columns,
            n_parts=parts,
            rows_per_expert=counts,
        )

    def poison(self):
        shape = (self.rows, self.parts, self.columns)
        return torch.full(shape, float("nan"), dtype=torch.bfloat16, device=self.x.device)

    def where(self, **changes):
        where = {"expert_offsets": self.offsets, "row_index": self.index, "n_rows": self.rows, "launch": self.launch}
        return {**where, **changes}

    def run(self, recipe, **changes):
        if recipe == "fp8":
            return grouped_gemm_fp8(self.x_q, self.x_s, self.weight_q, self.scale, **self.where(**changes))
        return grouped_gemm_bf16(self.x, self.weight, **self.where(**changes))

    def dense(self, recipe, scale=None):
        if recipe == "bf16":
            return self.x.double(), self.weight.double()
        scale = self.scale if scale is None else scale
        return (
            dequantize_rows(self.x_q, self.x_s, torch.float64),
            dequantize_blocks(self.weight_q, scale, torch.float64),
        )

    def want(self, recipe, scale=None):
        """(fp64 result, bound). bf16: K additions in fp32, an ulp of the sum of magnitudes each. fp8: DOT_FP8 in a
        block, the product of scales and its use (2 roundings), and the sum over blocks. Then one bf16 rounding."""
        x, weight = self.dense(recipe, scale)
        where = {"expert_offsets": self.offsets.cpu(), "row_index": self.index, "n_rows": self.rows}
        want = grouped_gemm_reference(x, weight, **where)
        magnitude = grouped_gemm_reference(x.abs(), weight.abs(), **where)
        depth = x.shape[1]
        dot = depth * ULP_FP32 if recipe == "bf16" else DOT_FP8 + (-(-depth // 128) + 3) * ULP_FP32
        return want, U_BF16 * want.abs() + 1.01 * dot * magnitude


@pytest.mark.parametrize("recipe", ["fp8", "bf16"])
@pytest.mark.parametrize(("parts", "columns", "depth"), SHAPES)
@pytest.mark.parametrize("counts", COUNTS)
def test_within_the_bound(counts, parts, columns, depth, recipe, generator, device, beyond):
    case = Case(COUNTS[counts], parts, columns, depth, generator, device, gathered=parts == 2)
    assert not case.launch.truncated
    out = case.poison()
    assert case.run(recipe, out=out) is out
    assert beyond(out, *case.want(recipe)) == 0


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65])
def test_one_expert(rows, generator, device, beyond):
    case = Case([rows], 1, 20, 40, generator, device, gathered=False)
    for recipe in ("fp8", "bf16"):
        assert beyond(case.run(recipe, out=case.poison()), *case.want(recipe)) == 0
        # Without a launch of the caller's the op sizes its own grid.
        assert beyond(case.run(recipe, launch=None), *case.want(recipe)) == 0


def test_a_wrong_block_scale_would_be_seen(generator, device, beyond):
    """Planted defects: two neighbouring block scales of one expert swapped; a scale grid read transposed."""
    case = Case([0, 70, 40], 2, 256, 256, generator, device)
    case.scale[1, 1, 0, 0], case.scale[1, 1, 0, 1] = 2.0**-8, 2.0**-5
    out = case.run("fp8")
    swapped = case.scale.clone()
    swapped[1, 1, 0] = swapped[1, 1, 0].flip(0)
    want, bound = case.want("fp8", swapped)
    wrong = ~((out.double() - want).abs() <= bound)
    assert wrong[:70, 1, :128].double().mean() > 0.5
    assert int(wrong.sum()) == int(wrong[:70, 1, :128].sum())
    want, bound = case.want("fp8", case.scale.transpose(2, 3).contiguous())
    assert beyond(out, want, bound) > 0.3 * out.numel()


def test_a_wrong_gather_would_be_seen(generator, device, beyond):
    """Planted defect: the rows of an expert shifted by one."""
    case = Case([5, 90, 20], 1, 64, 128, generator, device)
    out = case.run("bf16")
    case.index = case.index.roll(1)
    assert beyond(out, *case.want("bf16")) > 0.9 * out.numel()


@pytest.mark.parametrize("recipe", ["fp8", "bf16"])
@pytest.mark.parametrize("stale", [float("nan"), 0.0, 7.0])
def test_a_short_grid_leaves_exactly_the_rows_past_it_unwritten(recipe, stale, generator, device):
    """The incident: ceil(2 * average / 64) tiles for every expert. Rows past them keep what the buffer held."""
    counts = [210, 20, 10, 30, 0, 0, 10, 0, 20]
    case = Case(counts, 2, 160, 256, generator, device)
    tiles = -(-2 * (sum(counts) // len(counts)) // TILE_ROWS)
    short = replace(case.launch, grid=(tiles, *case.launch.grid[1:]), covers={"rows_per_expert": tiles * TILE_ROWS})
    assert short.truncated
    assert not case.launch.truncated
    out = torch.full_like(case.poison(), stale)
    case.run(recipe, out=out, launch=short)
    healthy = case.run(recipe)
    lost = torch.zeros(case.rows, dtype=torch.bool, device=device)
    for expert, count in enumerate(counts):
        first = int(case.offsets[expert])
        lost[first + min(count, tiles * TILE_ROWS) : first + count] = True
    assert int(lost.sum()) == 210 - tiles * TILE_ROWS
    assert torch.equal(out[~lost], healthy[~lost])
    kept = out[lost].isnan() if stale != stale else out[lost] == stale
    assert kept.all()


def test_strided_rows_and_unread_rows(generator, device):
    """Rows of x may be strided; rows that no expert asks for are not read, NaN or not."""
    case = Case([3, 70, 2], 2, 64, 160, generator, device)
    want = {recipe: case.run(recipe) for recipe in ("fp8", "bf16")}
    unread = torch.ones(case.tokens, dtype=torch.bool)
    unread[case.index.cpu().long()] = False
    case.x[unread.to(device)] = float("nan")
    case.x_s[unread.to(device)] = float("nan")
    case.x = torch.cat([case.x, case.x], dim=1)[:, :160]
    case.x_q = torch.cat([case.x_q.view(torch.uint8)] * 2, dim=1)[:, :160].view(FP8)
    case.x_s = torch.cat([case.x_s, case.x_s], dim=1)[:, :2]
    for recipe, expected in want.items():
        assert torch.equal(case.run(recipe), expected)


def test_column_tile_does_not_move_results(generator, device):
    """Results depend on the row tile and the depth only: two widths of the column tile give the same bits."""
    case = Case([70, 3], 2, 160, 256, generator, device)
    for recipe in ("fp8", "bf16"):
        narrow = replace(
            case.launch, grid=(case.launch.grid[0], -(-320 // 64), 2), block={**case.launch.block, "n": 64}
        )
        assert torch.equal(case.run(recipe, launch=narrow), case.run(recipe))


def test_offsets_beyond_int32(generator, device):
    """The third expert's weight begins at element 2^31: an int32 offset would read 2^32 bytes before it. Only the first
    column tile is launched, so that of 3 GiB of weight only the touched pages exist on a CPU."""
    columns = 2**23
    weight = torch.empty(3, 1, columns, 128, dtype=FP8, device=device)
    first = (100 * torch.randn(128, 128, generator=generator)).clamp(-448, 448).to(FP8).to(device)
    weight[2, 0, :512] = 0.0
    weight[2, 0, :128] = first
    scale = torch.empty(3, 1, columns // 128, 1, device=device)
    scale[2, 0, :4] = 0.5
    x = (100 * torch.randn(1, 128, generator=generator)).clamp(-448, 448).to(FP8).to(device)
    launch = grouped_gemm_launch(op="test", n_tokens=1, top_k=1, n_experts=3, n_cols=columns, n_parts=1)
    out = grouped_gemm_fp8(
        x,
        torch.ones(1, 1, device=device),
        weight,
        scale,
        expert_offsets=torch.tensor([0, 0, 0, 1], dtype=torch.int32, device=device),
        row_index=None,
        n_rows=1,
        launch=replace(launch, grid=(1, 1, 3)),
    )
    want = 0.5 * x.double() @ first.double().T
    magnitude = 0.5 * x.double().abs() @ first.double().abs().T
    bound = U_BF16 * want.abs() + 1.01 * (DOT_FP8 + 4 * ULP_FP32) * magnitude
    assert ((out[:, 0, :128].double() - want).abs() <= bound).all()


def test_misuse_raises_before_launch(generator, device):
    case = Case([5, 6], 2, 32, 48, generator, device)
    with pytest.raises(DtypeError, match="x"):
        grouped_gemm_bf16(case.x.float(), case.weight, **case.where())
    with pytest.raises(DtypeError, match="weight"):
        grouped_gemm_fp8(case.x_q, case.x_s, case.weight, case.scale, **case.where())
    with pytest.raises(ShapeError, match="weight_scale"):
        grouped_gemm_fp8(case.x_q, case.x_s, case.weight_q, case.scale[:, :1], **case.where())
    with pytest.raises(ShapeError, match="contiguous"):
        grouped_gemm_bf16(case.x, case.weight.transpose(2, 3).contiguous().transpose(2, 3), **case.where())
    with pytest.raises(ShapeError, match="expert_offsets"):
        case.run("bf16", expert_offsets=case.offsets[:-1])
    with pytest.raises(ShapeError, match="out"):
        case.run("fp8", out=case.poison()[:, :1])
    with pytest.raises(DtypeError, match="row_index"):
        case.run("fp8", row_index=case.index.long())


def test_launch_arithmetic():
    """A token picks an expert at most once: ceil(tokens / 64) tiles cover any routing."""
    sizes = {"op": "down", "top_k": 2, "n_experts": 12, "n_cols": 160, "n_parts": 2}
    for tokens, tiles in ((0, 0), (1, 1), (64, 1), (65, 2), (4097, 65)):
        launch = grouped_gemm_launch(n_tokens=tokens, **sizes)
        assert launch.grid[0] == tiles
        assert launch.grid[2] == 12
        assert launch.block["m"] == 64
        assert not launch.truncated
    known = grouped_gemm_launch(n_tokens=4097, rows_per_expert=[929, 100], **sizes)
    assert known.requires == {"rows_per_expert": 929}
    assert known.covers == {"rows_per_expert": 65 * 64}
