"""A small FP8 mixture-of-experts in plain torch and its exact oracle: traces without a model or an engine.

It is no fixture model: random weights, no attention between tokens. What it shares with the real thing is what the
comparator lives on: FP8 noise per row and 128 columns, bf16 rounding at stage boundaries, error that accumulates over
layers, router near-ties, skewed experts, rows permuted by expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from parity.align import align
from parity.compare import compare_aligned, sample_aligned, sample_traces
from parity.floor import FloorSample, calibrate
from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run, Verdict
from parity.stages import term
from parity.trace import MemoryTrace

LAYERS, D, H, K, E, S, F, V = 4, 256, 4, 64, 8, 2, 160, 512
ENVIRONMENT = Environment("3", "2", None, None, "test", "none", 1, "cpu", False)
RECIPES = {name: Recipe(name, name, name, "fp32", "fp32", "bf16", "bf16") for name in ("fp32", "fp8_block")}
LINEAGE = Lineage("synthetic")
Wrap = Callable[[str, int | None, torch.Tensor, dict], torch.Tensor]


def _quantized(x: torch.Tensor) -> torch.Tensor:
    """Round trip through E4M3 with one scale a row and 128 columns, the last group partial."""
    groups = []
    for group in x.float().split(128, dim=-1):
        s = group.abs().amax(-1, keepdim=True).clamp_min(1e-10) / 448
        groups.append((group / s).clamp(-448, 448).to(torch.float8_e4m3fn).float() * s)
    return torch.cat(groups, -1)


def _weights(seed: int = 0) -> SimpleNamespace:
    g = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> torch.Tensor:
        return _quantized(torch.randn(*shape, generator=g) / shape[-1] ** 0.5)

    embed = torch.randn(V, D, generator=g) + 1.5 * torch.randn(D, generator=g)  # the common part skews the routers
    layers = [
        SimpleNamespace(
            norm=1 + 0.2 * torch.randn(D, generator=g),
            mid=1 + 0.2 * torch.randn(D, generator=g),
            q=matrix(D, D),
            out=matrix(D, D),
            router=torch.randn(E, D, generator=g).bfloat16().float() / D**0.5,
            gate=matrix(E, F, D),
            up=matrix(E, F, D),
            down=matrix(E, D, F),
        )
        for _ in range(LAYERS)
    ]
    return SimpleNamespace(embed=embed.bfloat16().float(), layers=layers, norm=torch.ones(D), head=matrix(V, D))


@dataclass
class Forward:
    """One run. recipe: `fp32` exact, `fp8` the emulation, `engine` the same recipe summed in another order.

    `exact` has, for each stage, what exact arithmetic makes of this run's own inputs: the isolated oracle.
    """

    ids: torch.Tensor
    recipe: str
    name: str = "prompt"
    wrap: Wrap | None = None
    decode: int = 0
    captures: list[Capture] = field(default_factory=list)
    tensors: dict[int, torch.Tensor] = field(default_factory=dict)
    exact: dict[tuple[int | None, str], torch.Tensor] = field(default_factory=dict)

    def linear(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if self.recipe == "fp32":
            return x @ w.T
        q = _quantized(x)
        blocks = list(zip(q.split(128, -1), w.split(128, -1), strict=True))
        if self.recipe == "engine":  # 64-wide partial sums, last first
            blocks = list(zip(q.split(64, -1), w.split(64, -1), strict=True))[::-1]
        return torch.stack([a @ b.T for a, b in blocks]).sum(0)

    def stage(
        self, stage: str, layer: int | None, value: torch.Tensor, exact: torch.Tensor, **geometry
    ) -> torch.Tensor:
        """Round, let the fault in, record; expert rows come as [T, S, W] and are permuted as an engine would."""
        self.exact[layer, stage] = exact
        if self.recipe != "fp32" and stage not in ("moe.router_logits", "moe.topk_weights", "moe.topk_ids", "logits"):
            value = value.bfloat16()
        if self.wrap is not None:
            value = self.wrap(stage, layer, value, geometry)
        tokens = len(self.ids)
        shown, token, slot, expert, kept = value, np.arange(tokens), None, None, {}
        if term(stage).axes[0] == "R":
            flat = geometry["ids"].flatten()
            order = torch.argsort(flat, stable=True)
            shown = value.flatten(0, 1)[order]
            token, slot = (order // S).numpy(), (order % S).numpy().astype(np.int32)
            expert = flat[order].numpy().astype(np.int32)
        if stage in ("attn.q", "attn.q_norm"):
            shown = shown.reshape(tokens, H, K)
        first = tokens - self.decode
        steps = [("prefill", token < first)] + [("decode", token == t) for t in range(first, tokens)]
        for step, (phase, mask) in enumerate(steps):
            here = np.flatnonzero(mask)
            rows = Rows(
                np.zeros(len(here), np.int32),
                token[here].astype(np.int64),
                None if slot is None else slot[here],
                None if expert is None else expert[here],
            )
            if expert is not None:
                offsets = [0, *np.bincount(expert[here], minlength=E).cumsum().tolist()]
                kept = {"tile_m": 64, "expert_offsets": offsets}
            payload = shown if len(here) == len(shown) else shown[torch.from_numpy(here)]
            number = len(self.captures)
            self.captures.append(
                Capture(
                    number,
                    stage,
                    layer,
                    phase,
                    step,
                    0,
                    term(stage).axes,
                    str(payload.dtype).removeprefix("torch."),
                    tuple(payload.shape),
                    rows,
                    geometry=kept,
                )
            )
            self.tensors[number] = payload
        return value.float() if value.is_floating_point() else value

    def norm(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w

    def run(self, w: SimpleNamespace) -> Forward:
        x = self.stage("embed.out", None, w.embed[self.ids], w.embed[self.ids])
        for n, at in enumerate(w.layers):
            h = self.same("attn.norm", n, self.norm(x, at.norm))
            q = self.stage("attn.q", n, self.linear(h, at.q), h @ at.q.T)
            o = self.stage("attn.out", n, self.linear(q, at.out), q @ at.out.T)
            mid = self.same("resid.mid", n, x + o)
            h = self.same("mlp.norm", n, self.norm(mid, at.mid))
            terms = (h[:, None, :] * at.router).flip(-1) if self.recipe == "engine" else h[:, None, :] * at.router
            logits = self.same("moe.router_logits", n, 2 * terms.sum(-1))
            ids = self.same("moe.topk_ids", n, logits.topk(S).indices.to(torch.int32))
            ids = ids.long()
            p = logits.softmax(-1).gather(1, ids)
            weight = self.same("moe.topk_weights", n, p / p.sum(-1, keepdim=True))
            gate = self.experts("moe.gate", n, h[:, None].expand(-1, S, -1), at.gate, ids)
            up = self.experts("moe.up", n, h[:, None].expand(-1, S, -1), at.up, ids)
            act = self.same("moe.act", n, torch.nn.functional.silu(gate) * up, ids=ids)
            down = self.experts("moe.down", n, act, at.down, ids)
            mixed = self.same("moe.experts", n, (weight[..., None] * down).sum(1))
            x = self.same("resid.out", n, mid + mixed)
        h = self.same("final_norm", None, self.norm(x, w.norm))
        self.same("logits", None, h @ w.head.T)
        return self

    def same(self, stage: str, layer: int | None, value: torch.Tensor, **geometry) -> torch.Tensor:
        """A stage whose recipe is exact arithmetic on its inputs with one rounding."""
        return self.stage(stage, layer, value, value, **geometry)

    def experts(self, stage: str, layer: int, x: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out, exact = (torch.zeros(*ids.shape, w.shape[1]) for _ in range(2))
        for e in range(E):
            mine = ids == e
            out[mine], exact[mine] = self.linear(x[mine], w[e]), x[mine] @ w[e].T
        return self.stage(stage, layer, out, exact, ids=ids)

    def trace(self) -> MemoryTrace:
        run = Run(
            "qwen3_moe",
            self.recipe,
            LAYERS,
            (self.name,),
            (tuple(self.ids.tolist()),),
            RECIPES["fp32" if self.recipe == "fp32" else "fp8_block"],
            LINEAGE,
            ENVIRONMENT,
            declared=tuple(dict.fromkeys((c.layer, c.stage) for c in self.captures)),
        )
        return MemoryTrace(run, tuple(self.captures), self.tensors)


WEIGHTS = _weights()


def prompt(seed: int, tokens: int = 400) -> torch.Tensor:
    g = torch.Generator().manual_seed(1000 + seed)
    return (torch.rand(tokens, generator=g) ** 2 * V).long()


def forward(seed: int, recipe: str, wrap: Wrap | None = None, tokens: int = 400, decode: int = 0) -> Forward:
    with torch.no_grad():
        return Forward(prompt(seed, tokens), recipe, f"prompt-{seed}", wrap, decode).run(WEIGHTS)


def isolated(run: Forward):
    """(oracle tensor on the run's own inputs, the run's aligned stage) of every site."""
    trace = run.trace()
    for layer, stage in trace.run.declared:
        aligned = align(trace, stage, layer, 0)
        assert aligned is not None
        exact = run.exact[layer, stage]
        yield (exact.reshape(aligned.tensor.shape) if exact.shape != aligned.tensor.shape else exact), aligned


def clean_sample(seed: int, tokens: int = 400, decode: int = 0) -> FloorSample:
    emulated = forward(seed, "fp8", tokens=tokens, decode=decode)
    sample = sample_traces(
        oracle=forward(seed, "fp32", tokens=tokens).trace(), clean=emulated.trace(), run=f"clean-{seed}"
    )
    for exact, aligned in isolated(emulated):
        sample_aligned(sample, oracle=exact, clean=aligned)
    return sample


def compare_isolated(run: Forward, floor):
    logits = {aligned.layer: aligned.tensor for _, aligned in isolated(run) if aligned.stage == "moe.router_logits"}
    return [
        comparison
        for exact, aligned in isolated(run)
        for comparison in compare_aligned(
            oracle=exact, sut=aligned, floor=floor, router_logits=logits.get(aligned.layer)
        )
    ]


@pytest.fixture(scope="session")
def moe():
    return SimpleNamespace(
        forward=forward,
        isolated=isolated,
        compare_isolated=compare_isolated,
        clean_sample=clean_sample,
        recipe=RECIPES["fp8_block"],
        lineage=LINEAGE,
        weights=WEIGHTS,
        dims=SimpleNamespace(E=E, S=S, F=F, D=D, H=H),
    )


@pytest.fixture(scope="session")
def floor():
    """Six clean prompts of 400 to 700 tokens, each with two decode steps."""
    samples = [clean_sample(seed, tokens=400 + 60 * seed, decode=2) for seed in range(6)]
    return calibrate(samples, recipe=RECIPES["fp8_block"], lineage=LINEAGE)


@pytest.fixture(scope="session")
def worst():
    def of(comparisons) -> float:
        assert not [c for c in comparisons if c.verdict is Verdict.NOT_COMPARED]
        return max(c.over_floor for c in comparisons if c.over_floor is not None)

    return of
