"""What does each stage of a decoder compute in a precision recipe? One function a stage, from the specification.

Every function takes a `Call` and returns the stage's tensor: token rows [T, ...], expert rows [T, S, ...] in
(token, slot) order. A stage computes in the arithmetic's compute dtype from inputs at the boundary dtype and rounds
once at its end; router logits, routing weights and logits stay wide.

Letters: T token rows, D hidden, H/G query and key/value heads of width K, E experts, S slots, F width inside an
MLP or an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from parity.errors import UsageError
from parity_oracles.checkpoint import Hyper, layout
from parity_oracles.recipes.arithmetic import Arithmetic, Order
from parity_oracles.recipes.attention import attend
from parity_oracles.recipes.linear import Matrix, dot, multiply, multiply_bf16, prepare
from parity_oracles.recipes.weights import Weights


@dataclass(frozen=True)
class Call:
    """What a stage computes from.

    inputs: by the input names of the family's graph; the embedding's is `ids`, [T] integers. positions: [T] int64.
    The keys and values that `attn.context` reads stand at positions 0..C-1.
    keep: leave the result in the compute dtype, for a reader in the same kernel.
    """

    inputs: Mapping[str, torch.Tensor]
    weights: Weights
    layer: int | None
    hyper: Hyper
    arithmetic: Arithmetic
    order: Order
    positions: torch.Tensor
    keep: bool = False

    def input(self, name: str) -> torch.Tensor:
        """An input by name; raises UsageError when the caller did not give it."""
        if name not in self.inputs:
            raise UsageError(
                place="replay of a stage",
                expected=f"an input {name!r}",
                found=", ".join(self.inputs) or "none",
                next_step="Give every input of the stage in the family's graph (parity/stages.py).",
            )
        return self.inputs[name]

    def entered(self, name: str) -> torch.Tensor:
        """An input at the boundary's precision, in the compute dtype; as it is where a kernel carries it."""
        x = self.input(name)
        return x.to(self.arithmetic.compute) if self.carrying else self.arithmetic.enter(x)

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        """A stage's output, rounded once; not at all where it is kept."""
        return x.to(self.arithmetic.compute) if self.keep else self.arithmetic.leave(x)

    @property
    def dtype(self) -> torch.dtype:
        """Of what `leave` gives."""
        return self.arithmetic.compute if self.keep else self.arithmetic.boundary or self.arithmetic.compute

    @property
    def carrying(self) -> bool:
        """True when kernels hand on values between their operations that no one rounds."""
        return self.arithmetic.vllm and not self.order.stepwise

    @property
    def contracted(self) -> bool:
        """True when a rounding recipe is to do its elementwise arithmetic as compilers contract it; what is rounded
        after every operation leaves nothing to contract."""
        return self.order.contracted and not self.arithmetic.exact and not self.arithmetic.torch

    def between(self, x: torch.Tensor) -> torch.Tensor:
        """A value inside an elementwise stage, between two of its operations: rounded where the recipe or the order
        goes stepwise."""
        if not (self.order.stepwise or self.arithmetic.torch) or self.arithmetic.boundary is None:
            return x
        return x.to(self.arithmetic.boundary).to(x.dtype)

    @property
    def at(self) -> int:
        """The layer's index."""
        assert self.layer is not None
        return self.layer


def embed(c: Call) -> torch.Tensor:
    """[T] ids to [T, D]: row lookup."""
    table = c.weights.embedding()
    rows = table.as_q8_0 if c.arithmetic.linear == "q8_0" else table.exact32
    return c.arithmetic.leave(rows[c.input("ids").long()].to(c.arithmetic.compute))


def rms_norm(x: torch.Tensor, weight: torch.Tensor, c: Call) -> torch.Tensor:
    """`x * rsqrt(mean(x^2) + eps) * weight` over the last axis, all in the compute dtype, rounded once.

    Source: Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4.
    """
    squares, width = x * x, x.shape[-1]
    if c.order.norm is None or c.arithmetic.exact:  # fp64 has one order
        mean = squares.mean(-1, keepdim=True)
    else:
        mean = _sum_last(squares, c.order.norm) / width
    mean = mean + c.hyper.rms_eps
    normed = x / mean.sqrt() if c.contracted else x * torch.rsqrt(mean)
    if not c.arithmetic.gpu:
        normed = _rounded(normed, c) if c.arithmetic.vllm else c.between(normed)
    return c.arithmetic.leave(normed * weight.to(x.dtype))


def attn_norm(c: Call) -> torch.Tensor:
    """[T, D]: RMSNorm of the layer's input residual."""
    return rms_norm(c.entered("resid.in"), c.weights.norm(c.at, "input_layernorm"), c)


def mlp_norm(c: Call) -> torch.Tensor:
    """[T, D]: RMSNorm of the residual after attention."""
    return rms_norm(c.entered("resid.mid"), c.weights.norm(c.at, "post_attention_layernorm"), c)


def final_norm(c: Call) -> torch.Tensor:
    """[T, D]: RMSNorm of the last layer's residual."""
    return rms_norm(c.entered("resid.in"), c.weights.final_norm(), c)


def project(part: str) -> Callable[[Call], torch.Tensor]:
    """The stage function of the projection `q`, `k` or `v`: [T, D] to [T, heads, K]."""

    def stage(c: Call) -> torch.Tensor:
        x = prepare(c.input("attn.norm"), c.arithmetic, c.order)
        flat = multiply(x, c.weights.projection(c.at, part), c.arithmetic, c.order)
        return c.arithmetic.leave(flat).view(len(flat), -1, c.hyper.head_dim)

    return stage


def head_norm(part: str) -> Callable[[Call], torch.Tensor]:
    """The stage function of the per-head RMSNorm of `q` or `k`: [T, heads, K], over K."""

    def stage(c: Call) -> torch.Tensor:
        return rms_norm(c.entered(f"attn.{part}"), c.weights.norm(c.at, f"self_attn.{part}_norm"), c)

    return stage


def rope(part: str) -> Callable[[Call], torch.Tensor]:
    """The stage function of the rotary embedding of `q` or `k`: [T, heads, K], rotate-half layout.

    The angle is fp32 position times fp32 inverse frequency in every arithmetic: that is the model's definition.
    Source: Su et al. 2021, arXiv 2104.09864, eq. 34, in the half-split layout of GPT-NeoX.
    """

    def stage(c: Call) -> torch.Tensor:
        x = c.entered(f"attn.{part}_norm" if layout.head_norms(c.hyper) else f"attn.{part}")
        angle = angles(c)
        angle = torch.cat((angle, angle), -1)[:, None]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        if c.contracted:
            x, cos, sin = x.double(), cos.double(), sin.double()
        low, high = x.chunk(2, -1)
        turned = torch.cat((-high, low), -1)
        if c.arithmetic.torch or c.arithmetic.vllm:
            cos, sin = _rounded(cos, c), _rounded(sin, c)
        if c.arithmetic.torch or (c.arithmetic.vllm and c.order.stepwise):
            return c.arithmetic.leave(c.between(x * cos) + c.between(turned * sin))
        return c.arithmetic.leave(x * cos + turned * sin)

    return stage


def angles(c: Call) -> torch.Tensor:
    """[T, K/2] fp32: by how much rope turns each pair at each position.

    Position times inverse frequency; in ggml's recipes one fp32 product after the other from the position on, each with
    theta^(-2/K) (`ggml_rope_cache_init` of ggml-cpu/ops.cpp), but for an order that says `inv_freq64`.
    """
    position = c.positions.float()[:, None]
    if c.arithmetic.ggml is None or c.order.inv_freq64:
        return position * inverse_frequencies(c.hyper, c.order)
    step = torch.tensor(c.hyper.rope_theta, dtype=torch.float32) ** (-2.0 / c.hyper.head_dim)
    found = [position]
    for _ in range(1, c.hyper.head_dim // 2):
        found.append(found[-1] * step)
    return torch.cat(found, 1)


def inverse_frequencies(hyper: Hyper, order: Order) -> torch.Tensor:
    """[K/2] fp32: theta^(-2i/K), computed in fp32 throughout, or in fp64 and rounded."""
    dtype = torch.float64 if order.inv_freq64 else torch.float32
    exponent = torch.arange(0, hyper.head_dim, 2, dtype=dtype) / hyper.head_dim
    return (1.0 / hyper.rope_theta**exponent).float()


def context(c: Call) -> torch.Tensor:
    """[T, H, K]: causal grouped-query attention over keys 0..C-1."""
    q, k, v = (c.input(f"attn.{name}") for name in ("q_rope", "k_rope", "v"))
    return c.arithmetic.leave(attend(q, k, v, positions=c.positions, arithmetic=c.arithmetic, order=c.order))


def attn_out(c: Call) -> torch.Tensor:
    """[T, D]: output projection."""
    x = prepare(c.input("attn.context").flatten(1), c.arithmetic, c.order)
    return c.arithmetic.leave(multiply(x, c.weights.projection(c.at, "o"), c.arithmetic, c.order))


def add(left: str, right: str) -> Callable[[Call], torch.Tensor]:
    """The stage function of a residual add: [T, D], one rounding."""

    def stage(c: Call) -> torch.Tensor:
        return c.leave(c.entered(left) + c.entered(right))

    return stage


def leave_layer(c: Call) -> torch.Tensor:
    """[T, D]: the residual plus what the block adds."""
    return add("resid.mid", "moe.experts" if c.hyper.experts else "mlp.down")(c)


def router_logits(c: Call) -> torch.Tensor:
    """[T, E] wide: never quantized; BF16 operands in the rounding recipes."""
    return _unquantized(c.input("mlp.norm"), c.weights.router(c.at), c)


def topk_ids(c: Call) -> torch.Tensor:
    """[T, S] int32: the largest logits, descending, ties to the lower expert id (a stable sort keeps those first)."""
    logits = c.input("moe.router_logits")
    return logits.sort(stable=True, dim=-1, descending=True).indices[:, : c.hyper.top_k].int()


def topk_weights(c: Call) -> torch.Tensor:
    """[T, S] wide: softmax over all experts, gathered at the ids, divided by their sum when `norm_topk_prob`."""
    share = c.input("moe.router_logits").to(c.arithmetic.compute).softmax(-1)
    chosen = share.gather(1, c.input("moe.topk_ids").long())
    chosen = chosen / chosen.sum(-1, keepdim=True) if c.hyper.norm_topk_prob else chosen
    on_gpu = c.arithmetic.vllm and c.order.tensor_core is not None  # its kernel there keeps them in fp32
    return chosen.to(c.arithmetic.compute if on_gpu else c.arithmetic.wide)


def expert_in(part: str) -> Callable[[Call], torch.Tensor]:
    """The stage function of the experts' `gate` or `up`: [T, D] to [T, S, F]; a row is quantized once for all slots."""

    def stage(c: Call) -> torch.Tensor:
        ids = c.input("moe.topk_ids")
        x = prepare(c.input("mlp.norm"), c.arithmetic, c.order)
        keep = replace(c, keep=c.keep or c.carrying)
        out = torch.empty(ids.numel(), c.hyper.expert_width, dtype=keep.dtype)
        for index, rows in rows_by_expert(ids):
            matrix = c.weights.expert(c.at, index, part)
            out[rows] = keep.leave(multiply(x.take(rows // ids.shape[1]), matrix, c.arithmetic, c.order))
        return out.view(*ids.shape, -1)

    return stage


def act(block: str) -> Callable[[Call], torch.Tensor]:
    """The stage function of silu(gate) * up in `mlp`, [T, F], or `moe`, [T, S, F].

    Source: Shazeer 2020, arXiv 2002.05202, eq. 6 without bias.
    """

    def stage(c: Call) -> torch.Tensor:
        gate = c.entered(f"{block}.gate")
        silu = gate / (1 + torch.exp(-gate)) if c.contracted else torch.nn.functional.silu(gate)
        return c.arithmetic.leave(c.between(silu) * c.entered(f"{block}.up"))

    return stage


def dense(part: str, source: str) -> Callable[[Call], torch.Tensor]:
    """The stage function of `gate`, `up` or `down` of a dense MLP: [T, K] of stage `source` to [T, N]."""

    def stage(c: Call) -> torch.Tensor:
        x = prepare(c.input(source), c.arithmetic, c.order)
        return c.arithmetic.leave(multiply(x, c.weights.dense(c.at, part), c.arithmetic, c.order))

    return stage


def expert_down(c: Call) -> torch.Tensor:
    """[T, S, F] to [T, S, D]: the experts' down projection, before the routing weight."""
    ids = c.input("moe.topk_ids")
    x = prepare(c.input("moe.act").flatten(0, 1), c.arithmetic, c.order)
    out = torch.empty(ids.numel(), c.hyper.hidden, dtype=c.dtype)
    for index, rows in rows_by_expert(ids):
        matrix = c.weights.expert(c.at, index, "down")
        out[rows] = c.leave(multiply(x.take(rows), matrix, c.arithmetic, c.order))
    return out.view(*ids.shape, -1)


def combine(c: Call) -> torch.Tensor:
    """[T, D]: sum over slots, in slot order, of routing weight times down row; one rounding."""
    down, share = c.entered("moe.down"), c.input("moe.topk_weights").to(c.arithmetic.compute)
    if c.contracted:
        down, share = down.double(), share.double()
    total = c.between(share[:, 0, None] * down[:, 0])
    for slot in range(1, share.shape[1]):
        total = total + c.between(share[:, slot, None] * down[:, slot])
        # A sum over slots accumulates wide; an engine that adds expert by expert rounds each time.
        total = c.between(total) if c.order.stepwise else total
    return c.arithmetic.leave(total)


def logits(c: Call) -> torch.Tensor:
    """[T, V] wide: the head is never quantized but in ggml's recipes."""
    if c.arithmetic.ggml is not None:
        x = prepare(c.input("final_norm"), c.arithmetic, c.order)
        return multiply(x, c.weights.head(), c.arithmetic, c.order)
    return _unquantized(c.input("final_norm"), c.weights.head(), c)


STAGES: dict[str, Callable[[Call], torch.Tensor]] = {
    "embed.out": embed,
    "attn.norm": attn_norm,
    "attn.q": project("q"),
    "attn.k": project("k"),
    "attn.v": project("v"),
    "attn.q_norm": head_norm("q"),
    "attn.k_norm": head_norm("k"),
    "attn.q_rope": rope("q"),
    "attn.k_rope": rope("k"),
    "attn.context": context,
    "attn.out": attn_out,
    "resid.mid": add("resid.in", "attn.out"),
    "mlp.norm": mlp_norm,
    "mlp.gate": dense("gate", "mlp.norm"),
    "mlp.up": dense("up", "mlp.norm"),
    "mlp.act": act("mlp"),
    "mlp.down": dense("down", "mlp.act"),
    "moe.router_logits": router_logits,
    "moe.topk_ids": topk_ids,
    "moe.topk_weights": topk_weights,
    "moe.gate": expert_in("gate"),
    "moe.up": expert_in("up"),
    "moe.act": act("moe"),
    "moe.down": expert_down,
    "moe.experts": combine,
    "resid.out": leave_layer,
    "final_norm": final_norm,
    "logits": logits,
}


def rows_by_expert(ids: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Each expert that has rows, with their numbers token * S + slot, ascending; experts without rows are left out."""
    flat = ids.flatten().long()
    by_expert = flat.argsort(stable=True)
    start = 0
    for index, count in enumerate(flat.bincount().tolist()):
        if count:
            yield index, by_expert[start : start + count]
        start += count


def _unquantized(x: torch.Tensor, matrix: Matrix, c: Call) -> torch.Tensor:
    """A linear layer outside the quantized set: BF16 operands in the rounding recipes; the result stays wide."""
    x = c.arithmetic.enter(x)
    if c.arithmetic.boundary is None:
        length = None if c.arithmetic.exact else c.order.dot
        return dot(x, matrix.exact32.to(c.arithmetic.compute), length)
    return multiply_bf16(x, matrix.as_bf16, c.order).to(c.arithmetic.wide)


def _rounded(x: torch.Tensor, c: Call) -> torch.Tensor:
    """Rounded to the boundary's dtype and back."""
    return c.arithmetic.leave(x).to(x.dtype)


def _sum_last(x: torch.Tensor, length: int) -> torch.Tensor:
    """Sum over the last axis in pieces of `length`, the pieces in order."""
    total = None
    for piece in x.split(length, -1):
        part = piece.sum(-1, keepdim=True)
        total = part if total is None else total + part
    assert total is not None
    return total
