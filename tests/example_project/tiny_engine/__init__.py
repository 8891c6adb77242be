"""A tiny engine: a gated MLP in bfloat16, tile by tile."""

from __future__ import annotations

import torch

TILE = 16


def rms_norm(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """x: [T, D] bf16. Rows scaled to unit root mean square, in float32, rounded once."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def gated_mlp(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> dict[str, torch.Tensor]:
    """x: [T, D] bf16; gate, up: [F, D]; down: [D, F]. Returns `act` [T, F] and `out` [T, D], bf16."""
    rows = len(x)
    act, out = x.new_zeros(rows, len(gate)), torch.zeros_like(x)
    for tile in range(-(-rows // TILE)):
        at = slice(tile * TILE, (tile + 1) * TILE)
        act[at] = torch.nn.functional.silu(x[at] @ gate.T) * (x[at] @ up.T)
        out[at] = act[at] @ down.T
    return {"act": act, "out": out}
