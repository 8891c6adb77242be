"""A one-layer llama written by hand, with fused projections and a residual pair, and the map of its stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from parity_oracles.stagemap import StageMap
from parity_oracles.stagemap.reading import parse_map
from parity_oracles.torch_module import TorchModel, show

SIZES = {"layers": 1, "vocab": 31, "max_positions": 64, "hidden": 24, "heads": 3, "kv_heads": 1, "head_dim": 8,
         "expert_width": 20}  # fmt: skip


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(24, 24 + 8 + 8, bias=False)
        self.o = nn.Linear(24, 24, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).split([24, 8, 8], -1)
        q = q.view(batch, tokens, 3, 8).transpose(1, 2)
        k, v = k.view(batch, tokens, 1, 8).transpose(1, 2), v.view(batch, tokens, 1, 8).transpose(1, 2)
        angle = torch.arange(tokens, device=x.device)[:, None] * 10000 ** (-torch.arange(4, device=x.device) / 4)
        q = show(self, "query", turn(q, angle))
        k = show(self, "key", turn(k, angle))
        score = q @ k.transpose(-1, -2) * 8**-0.5
        future = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        context = score.masked_fill(future, float("-inf")).softmax(-1) @ v
        return self.o(context.transpose(1, 2).reshape(batch, tokens, 24))


def turn(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up = nn.Linear(24, 40, bias=False)
        self.down = nn.Linear(20, 24, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(torch.nn.functional.silu(gate) * up)


class Layer(nn.Module):
    """Returns what the MLP adds, and the residual before it: a pair, as fused engines keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(24, eps=1e-6), nn.RMSNorm(24, eps=1e-6)
        self.attn, self.mlp = Attention(), Mlp()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x + self.attn(self.norm1(x))
        return self.mlp(self.norm2(x)), x


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 24)
        self.layers = nn.ModuleList([Layer()])
        self.norm = nn.RMSNorm(24, eps=1e-6)
        self.head = nn.Linear(24, 31, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        added, x = self.layers[0](self.embed(ids))
        return self.head(self.norm(added + x))


def source(name: str, stages: Any, axes: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "stages": stages, "axes": axes, **more}


SOURCES = [
    source("embed", "embed.out", "1 T D"),
    source("layers.{layer}.norm1", "attn.norm", "1 T D"),
    source("layers.{layer}.attn.qkv", ["attn.q", "attn.k", "attn.v"], ["1 T HK", "1 T GK", "1 T GK"]),
    source("layers.{layer}.attn", "attn.q_rope", "1 H T K", take="query"),
    source("layers.{layer}.attn", "attn.k_rope", "1 G T K", take="key"),
    source("layers.{layer}.attn.o", "attn.context", "1 T HK", take="input"),
    source("layers.{layer}.attn.o", "attn.out", "1 T D"),
    source("layers.{layer}.norm2", "resid.mid", "1 T D", take="input"),
    source("layers.{layer}.norm2", "mlp.norm", "1 T D"),
    source("layers.{layer}.mlp.gate_up", ["mlp.gate", "mlp.up"], ["1 T F", "1 T F"]),
    source("layers.{layer}.mlp.down", "mlp.act", "1 T F", take="input"),
    source("layers.{layer}.mlp.down", "mlp.down", "1 T D"),
    source("layers.{layer}", "resid.out", "1 T D", result=[0, 1]),
    source("norm", "final_norm", "1 T D"),
    source("head", "logits", "1 T V"),
]


def toy_map(*changes: dict[str, Any]) -> StageMap:
    """The toy's map; a change replaces the source that has its stages."""
    changed = {str(one["stages"]): one for one in changes}
    return parse_map({"engine": "toy", "family": "llama",
                      "tensor": [changed.get(str(one["stages"]), one) for one in SOURCES]})  # fmt: skip


@pytest.fixture(scope="session")
def make_toy() -> Callable[..., TorchModel]:
    """make_toy(module=None, stage_map=None, dtype=float32) is a toy with seeded weights."""

    def make(
        module: nn.Module | None = None, stage_map: StageMap | None = None, dtype: torch.dtype = torch.float32
    ) -> TorchModel:
        torch.manual_seed(7)
        built = (module or Toy()).eval().to(dtype)
        return TorchModel(built, "llama", SIZES, stage_map or toy_map())

    return make


@pytest.fixture(scope="session")
def make_map() -> Callable[..., StageMap]:
    return toy_map


@pytest.fixture(scope="session")
def toy_source() -> Callable[..., dict[str, Any]]:
    return source


@pytest.fixture(scope="session")
def toy_class() -> type[Toy]:
    return Toy
