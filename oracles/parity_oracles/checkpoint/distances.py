"""How far is each weight of a checkpoint from its reference, and how far may its format take it?"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from parity.audit.record import WeightDistance
from parity_oracles.checkpoint import layout
from parity_oracles.checkpoint.checkpoint import Checkpoint, read_checkpoint

BLOCK = 128
STORED_ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
"""Unit roundoff of each dtype a reference may be stored in: half a unit in the last place, relative."""

E4M3_BASIS = (
    "half the spacing of E4M3 at the stored code times its block's scale, and the reference's own rounding; derived"
)
PLAIN_BASIS = "half a unit in the last place of both dtypes; derived"

Problems = tuple[tuple[str, str], ...]


def weight_distances(checkpoint: Checkpoint, reference: str | Path) -> tuple[tuple[WeightDistance, ...], Problems]:
    """Distance of each weight from the one in the model folder `reference`, and what could not be compared.

    Both are read by our own dequantizer, one tensor at a time. Raises what read_checkpoint raises.
    """
    other = read_checkpoint(reference)
    names = {**layout.plain(checkpoint.hyper), **layout.quantizable(checkpoint.hyper)}
    theirs = {**layout.plain(other.hyper), **layout.quantizable(other.hyper)}
    found, problems = [], [(name, "only in the reference") for name in theirs if name not in names]
    for name, shape in names.items():
        if name not in theirs:
            problems.append((name, "not in the reference"))
        elif theirs[name] != shape:
            problems.append((name, f"shape {list(shape)}, in the reference {list(theirs[name])}"))
        else:
            found.append(_distance(checkpoint, other, name))
    return tuple(found), tuple(problems)


def _distance(checkpoint: Checkpoint, reference: Checkpoint, name: str) -> WeightDistance:
    ours, theirs = _matrix(checkpoint.weight(name)), _matrix(reference.weight(name))
    allowed, basis = _allowed(checkpoint, reference, name, theirs)
    error = ours - theirs
    over = (error.abs() / allowed).nan_to_num(nan=0.0, posinf=math.inf)  # 0 / 0: nothing is allowed and nothing is off
    over[~ours.isfinite()] = math.inf
    a, b = ours.double(), theirs.double()
    norms = float(a.norm()), float(b.norm())
    rows = _relative(error.double().square().sum(1), b.square().sum(1))
    blocks = _relative(_by_block(error), _by_block(theirs))
    worst_row, worst_block = int(rows.argmax()), int(blocks.argmax())
    return WeightDistance(
        name=name,
        cosine=float((a * b).sum()) / (norms[0] * norms[1]) if min(norms) > 0 else float(norms[0] == norms[1]),
        norm_ratio=norms[0] / norms[1] if norms[1] > 0 else (1.0 if norms[0] == 0 else math.inf),
        rel_l2=float(_relative(error.double().square().sum(), b.square().sum())),
        worst_row=(worst_row, float(rows[worst_row])),
        worst_block=(divmod(worst_block, blocks.shape[1]), float(blocks.flatten()[worst_block])),
        excess=float(over.max()) if over.numel() else 0.0,
        outside=float((over > 1).double().mean()) if over.numel() else 0.0,
        basis=basis,
        scaled=checkpoint.is_fp8(name),
    )


def _allowed(
    checkpoint: Checkpoint, reference: Checkpoint, name: str, theirs: torch.Tensor
) -> tuple[torch.Tensor, str]:
    """[N, K] largest error that rounding explains, fp32.

    A code q of E4M3 stands for all numbers within half a spacing: the spacing is 2^(e-3) in the binade 2^e of |q|, and
    2^-9 below 2^-6, where codes are subnormal (OCP OFP8 1.0, table 1: 3 bits of mantissa, bias 7). At a power of two
    the spacing below is half of it, which the wider one covers. The scale is as stored, its own dtype is exact in fp32;
    the division by it and the product cost two fp32 roundings. The reference may itself be a rounding of what was
    quantized: it adds its dtype's own.
    """
    source = STORED_ROUNDING[_dtype(reference, name)] * theirs.abs()
    if not checkpoint.is_fp8(name):
        stored = STORED_ROUNDING[_dtype(checkpoint, name)]
        if _dtype(reference, name) == _dtype(checkpoint, name):
            return torch.zeros_like(theirs), "the same dtype: the same bits"
        return source + stored * theirs.abs(), PLAIN_BASIS
    codes, scales = checkpoint.quantized(name)
    magnitude = codes.float().abs()
    exponent = torch.frexp(magnitude.clamp_min(2.0**-6)).exponent - 1
    half = torch.ldexp(torch.ones_like(magnitude), exponent - 4)
    rows, columns = magnitude.shape
    block = checkpoint.block
    wide = scales.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    slack = 3 * 2.0**-24 * (magnitude + half)
    return (half + slack) * wide + source, E4M3_BASIS


def _dtype(checkpoint: Checkpoint, name: str) -> torch.dtype:
    """The dtype that fixes the precision of a stored weight; an E4M3 reference is taken at its dequantized value."""
    dtype = checkpoint.dtype(name)
    return dtype if dtype in STORED_ROUNDING else torch.float32


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dim() == 2 else tensor[None]


def _relative(error: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """sqrt(error / size); 0 / 0 is 0, anything over 0 is infinite."""
    return (
        (error / size)
        .sqrt()
        .nan_to_num(nan=0.0, posinf=math.inf)
        .where(error.isfinite(), torch.tensor(math.inf).double())
    )


def _by_block(tensor: torch.Tensor) -> torch.Tensor:
    """Sums of squares of 128x128 blocks, edges included; [N/128, K/128] fp64."""
    rows, columns = tensor.shape
    grid = (-(-rows // BLOCK), -(-columns // BLOCK))
    padded = torch.zeros(grid[0] * BLOCK, grid[1] * BLOCK, dtype=torch.float64)
    padded[:rows, :columns] = tensor.double()
    return padded.view(grid[0], BLOCK, grid[1], BLOCK).square().sum((1, 3))
