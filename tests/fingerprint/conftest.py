"""Healthy fields of every stage, computed by plain formulas; tests plant into them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from parity.fingerprint import ErrorField

EXPERT_ROWS = ("moe.gate", "moe.up", "moe.act", "moe.down")
AXES = {
    "attn.norm": "TD", "attn.q": "THK", "attn.k": "TGK", "attn.v": "TGK", "attn.q_norm": "THK", "attn.q_rope": "THK",
    "attn.k_rope": "TGK", "attn.context": "THK", "attn.out": "TD", "resid.mid": "TD", "mlp.norm": "TD",
    "moe.router_logits": "TE", "moe.topk_ids": "TS", "moe.topk_weights": "TS", "moe.gate": "TSF", "moe.up": "TSF",
    "moe.act": "TSF", "moe.down": "TSD", "moe.experts": "TD",
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Dimensions of a small model: tokens, query and key/value heads, head dim, hidden, experts, their width."""

    T: int
    H: int
    G: int
    K: int
    D: int
    E: int
    F: int
    theta: float = 1e6
    S: int = 2


SIZES = (
    Size(97, 4, 2, 16, 64, 5, 48, theta=1e4),
    Size(311, 6, 2, 64, 384, 12, 160),
    Size(640, 8, 4, 32, 256, 8, 272, theta=5e5),
)


def rotated(x: torch.Tensor, positions: torch.Tensor, frequencies: torch.Tensor, dim: int | None = None):
    """Hugging Face's rope of [T, H, K], halves paired, over the first `dim` elements."""
    dim = dim or x.shape[-1]
    angle = positions[:, None].float() * frequencies
    cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
    part, rest = x[..., :dim], x[..., dim:]
    turned = torch.cat([-part[..., dim // 2 :], part[..., : dim // 2]], -1)
    return torch.cat([part * cos + turned * sin, rest], -1)


def frequencies(theta: float, dim: int) -> torch.Tensor:
    return theta ** (-torch.arange(0, dim, 2).float() / dim)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    oldest: torch.Tensor | None = None,
    unseen: torch.Tensor | None = None,
    heads: list[int] | None = None,
):
    """Causal attention of [T, H, K] over [T, G, K]; keys before `oldest` of each query hidden, and those `unseen`
    [T, T]; heads: the key head of each query head."""
    group = heads or [h // (q.shape[1] // k.shape[1]) for h in range(q.shape[1])]
    k, v = k[:, group], v[:, group]
    scores = torch.einsum("thk,shk->hts", q, k) * scale
    at = torch.arange(len(q))
    hidden = at[None, :] > at[:, None]
    if oldest is not None:
        hidden |= at[None, :] < oldest[:, None]
    if unseen is not None:
        hidden |= unseen
    return torch.einsum("hts,shk->thk", scores.masked_fill(hidden, -math.inf).softmax(-1), v)


class Lab:
    """One layer of a model of random weights: `field(stage)` is a healthy pair of the stage, noise included."""

    def __init__(self, size: Size, seed: int = 0, noise: str = "fp8") -> None:
        self.size, self.noise = size, noise
        self.g = torch.Generator().manual_seed(seed)
        s = size
        self.weights: dict[str, torch.Tensor] = {}
        t: dict[str, torch.Tensor] = {}
        t["resid.in"] = 3 * self.normal(s.T, s.D) * (1 + 4 * (torch.rand(s.D, generator=self.g) > 0.97))
        t["attn.norm"] = self.rms(t["resid.in"], "attn.norm")
        for name, heads in (("q", s.H), ("k", s.G), ("v", s.G)):
            t[f"attn.{name}"] = self.project(f"attn.{name}", t["attn.norm"], heads * s.K).view(s.T, heads, s.K)
        at, self.frequencies = torch.arange(s.T), frequencies(s.theta, s.K)
        for name in ("q", "k"):
            t[f"attn.{name}_norm"] = self.rms(t[f"attn.{name}"], f"attn.{name}_norm", 1.5)
            t[f"attn.{name}_rope"] = rotated(t[f"attn.{name}_norm"], at, self.frequencies)
        t["attn.context"] = attend(t["attn.q_rope"], t["attn.k_rope"], t["attn.v"], s.K**-0.5)
        t["attn.out"] = self.project("attn.out", t["attn.context"].flatten(1), s.D)
        t["resid.mid"] = t["resid.in"] + t["attn.out"]
        t["mlp.norm"] = self.rms(t["resid.mid"], "mlp.norm")
        skew = torch.linspace(2.0, 0.0, s.E)
        t["moe.router_logits"] = self.project("moe.router_logits", t["mlp.norm"], s.E) * 1.5 + skew
        ids = t["moe.router_logits"].topk(s.S).indices
        t["moe.topk_ids"] = ids.int()
        t["moe.topk_weights"] = t["moe.router_logits"].gather(1, ids).softmax(1)
        for name in ("gate", "up"):
            t[f"moe.{name}"] = self.experts(f"moe.{name}", t["mlp.norm"][:, None].expand(-1, s.S, -1), ids, s.F)
        t["moe.act"] = torch.nn.functional.silu(t["moe.gate"]) * t["moe.up"]
        t["moe.down"] = self.experts("moe.down", t["moe.act"], ids, s.D)
        t["moe.experts"] = (t["moe.topk_weights"][..., None] * t["moe.down"]).sum(1)
        self.tensors = t
        flat = ids.flatten()
        self.number = torch.zeros_like(flat)
        for e in range(s.E):
            self.number[flat == e] = torch.arange(int((flat == e).sum()))

    INPUTS: Mapping[str, tuple[str, ...]] = {
        "attn.norm": ("resid.in",), "attn.q": ("attn.norm",), "attn.k": ("attn.norm",), "attn.v": ("attn.norm",),
        "attn.q_norm": ("attn.q",), "attn.q_rope": ("attn.q_norm",), "attn.k_rope": ("attn.k_norm",),
        "attn.context": ("attn.q_rope", "attn.k_rope", "attn.v"), "attn.out": ("attn.context",),
        "resid.mid": ("resid.in", "attn.out"), "mlp.norm": ("resid.mid",), "moe.router_logits": ("mlp.norm",),
        "moe.topk_ids": ("moe.router_logits",), "moe.topk_weights": ("moe.router_logits", "moe.topk_ids"),
        "moe.gate": ("mlp.norm", "moe.topk_ids"), "moe.up": ("mlp.norm", "moe.topk_ids"),
        "moe.act": ("moe.gate", "moe.up"), "moe.down": ("moe.act", "moe.topk_ids"),
        "moe.experts": ("moe.down", "moe.topk_weights"),
    }  # fmt: skip

    rotated, frequencies_of, attend = staticmethod(rotated), staticmethod(frequencies), staticmethod(attend)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.g)

    def rms(self, x: torch.Tensor, name: str, mean: float = 1.0) -> torch.Tensor:
        weight = self.weights[name] = mean * (0.5 + torch.rand(x.shape[-1], generator=self.g))
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight

    def project(self, name: str, x: torch.Tensor, width: int) -> torch.Tensor:
        self.weights[name] = self.normal(width, x.shape[-1]) / x.shape[-1] ** 0.5
        return x @ self.weights[name].T

    def experts(self, name: str, x: torch.Tensor, ids: torch.Tensor, width: int) -> torch.Tensor:
        self.weights[name] = self.normal(self.size.E, width, x.shape[-1]) / x.shape[-1] ** 0.5
        return self.by_expert(self.weights[name], x, ids)

    def by_expert(self, weight: torch.Tensor, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(*x.shape[:2], weight.shape[1])
        for e in range(self.size.E):
            out[ids == e] = x[ids == e] @ weight[e].T
        return out

    def noisy(self, tensor: torch.Tensor, *, rows: bool = False) -> torch.Tensor:
        """With the noise of a healthy engine: of FP8 operands, 3 % of the row's size, or of BF16 rounding alone."""
        if not tensor.is_floating_point():
            return tensor
        if self.noise == "fp8":
            finite = torch.nan_to_num(tensor, 0.0, 0.0, 0.0)
            axes = tuple(range(2 if rows else 1, tensor.ndim))
            size = finite.square().mean(axes, keepdim=True).sqrt()
            tensor = tensor + 0.03 * size * self.normal(*tensor.shape)
        return tensor.bfloat16()

    def field(self, stage: str, sut: torch.Tensor | None = None, *, noisy: bool = True, **more: object) -> ErrorField:
        oracle = self.tensors[stage]
        value = oracle if sut is None else sut
        field = ErrorField(
            stage=stage,
            layer=1,
            oracle=oracle,
            sut=self.noisy(value, rows=stage in EXPERT_ROWS) if noisy else value,
            axes=tuple(AXES[stage]),
            position=np.arange(self.size.T),
            inputs={name: self.tensors[name] for name in self.INPUTS[stage]},
            hyper={"rms_norm_eps": 1e-6, "rope_theta": self.size.theta, "head_dim": self.size.K},
        )
        if stage in EXPERT_ROWS:
            ids = self.tensors["moe.topk_ids"].numpy()
            field = replace(field, expert=ids, row_in_expert=self.number.view(ids.shape).numpy())
        return replace(field, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def lab() -> Callable[..., Lab]:
    """`lab(number of the size, seed, noise)`; made once for each set of arguments."""
    made: dict[tuple, Lab] = {}

    def make(size: int, seed: int | None = None, noise: str = "fp8") -> Lab:
        key = (size, seed, noise)
        if key not in made:
            made[key] = Lab(SIZES[size], size if seed is None else seed, noise)
        return made[key]

    return make
