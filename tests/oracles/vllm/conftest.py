"""An engine that packs, chunks, caches and overwrites as vLLM does, in a hundred lines of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from parity_oracles.vllm.packing import Packed
from parity_oracles.vllm.runner import VllmRunner

HIDDEN, HEADS, GROUPS, WIDTH, EXPERTS, TOP, VOCAB, BLOCK = 12, 3, 1, 4, 5, 2, 23, 4


class Norm(nn.Module):
    """As vLLM's: with a residual, the sum is written into it, and the result into the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.variance_epsilon = 1e-6

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        if residual is not None:
            residual += x
            x.copy_(residual)
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight
        return normed if residual is None else (x.copy_(normed), residual)


class Projection(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x), None


class Core(nn.Module):
    """No attention, but a mixture of a token's own values: rows of different requests do not meet."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        mixed = torch.sigmoid(q.unflatten(-1, (HEADS, WIDTH)) * k.unflatten(-1, (GROUPS, WIDTH)))
        return (mixed * v.unflatten(-1, (GROUPS, WIDTH))).flatten(-2)


class Attention(nn.Module):
    num_heads, num_kv_heads, head_dim, scaling = HEADS, GROUPS, WIDTH, 0.5

    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = Projection(HIDDEN, (HEADS + 2 * GROUPS) * WIDTH, bias=False)
        self.q_norm, self.k_norm, self.attn = Norm(WIDTH), Norm(WIDTH), Core()
        self.o_proj = Projection(HEADS * WIDTH, HIDDEN, bias=False)
        self.rotary_emb = SimpleNamespace(base=10000.0, rotary_dim=WIDTH)

    def forward(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        qkv, _ = self.qkv_proj(x)
        q, k, v = qkv.split([HEADS * WIDTH, GROUPS * WIDTH, GROUPS * WIDTH], dim=-1)
        q.copy_(self.q_norm(q.reshape(len(q), HEADS, WIDTH)).flatten(1))
        k.copy_(self.k_norm(k.reshape(len(k), GROUPS, WIDTH)).flatten(1))
        turn = torch.cos(positions.float())[:, None]
        q *= turn
        k *= turn
        out, _ = self.o_proj(self.attn(q, k, v))
        return out


class Router:
    top_k, renormalize = TOP, True

    def _compute_routing(self, hidden: torch.Tensor, logits: torch.Tensor, _dtype: Any) -> Any:
        weights, ids = logits.softmax(-1).topk(TOP, sorted=False)
        return (weights / weights.sum(-1, keepdim=True)).float(), ids.to(torch.int32)


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w2_weight = nn.Parameter(torch.randn(EXPERTS, HIDDEN, HIDDEN))

    def forward_modular(self, x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor) -> torch.Tensor:
        rows = torch.einsum("td,tsed->tse", x, self.w2_weight[topk_ids.long()])
        return x.copy_((rows * topk_weights[..., None]).sum(1))  # into its input, as some kernels do


class Experts(nn.Module):
    is_monolithic = False

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.router, self.routed_experts = Router(), Routed()
        vars(self)["gate"] = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits, _ = vars(self)["gate"](x)
        weights, ids = self.router._compute_routing(x, logits, None)
        return self.routed_experts.forward_modular(x=x.clone(), topk_weights=weights, topk_ids=ids)


class Moe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Projection(HIDDEN, EXPERTS, bias=False)
        self.experts = Experts(self.gate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.experts(x)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = Norm(HIDDEN), Attention()
        self.post_attention_layernorm, self.mlp = Norm(HIDDEN), Moe()

    def forward(self, positions: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None) -> Any:
        if residual is None:
            residual, x = x, self.input_layernorm(x)
        else:
            x, residual = self.input_layernorm(x, residual)
        x, residual = self.post_attention_layernorm(self.self_attn(positions, x), residual)
        return self.mlp(x), residual


class Inner(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.norm = Norm(HIDDEN)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x, residual = self.embed_tokens(ids), None
        for layer in self.layers:
            x, residual = layer(positions, x, residual)
        return self.norm(x, residual)[0]


class Model(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.model = Inner(layers)
        self.lm_head = nn.Linear(HIDDEN, VOCAB, bias=False)
        self.lm_head.org_vocab_size = VOCAB  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids, positions)

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.lm_head(hidden)


class ToyEngine:
    """Packs all requests into each step, decode rows first, as vLLM's schedulers do.

    padding: rows of nonsense at the end of every batch. swapped: says of the first two requests that they are packed
    the other way round. pushed_out: computes a request's prompt again once it decodes.
    """

    version, runner_kind, prefix_caching = "toy", "toy", True

    def __init__(self, *, padding: int = 0, swapped: bool = False, pushed_out: bool = False) -> None:
        torch.manual_seed(3)
        self.model = Model().requires_grad_(False)
        self.padding, self.swapped, self.pushed_out = padding, swapped, pushed_out
        text = SimpleNamespace(
            model_type="qwen3_moe", tie_word_embeddings=False, num_experts=EXPERTS, num_experts_per_tok=TOP,
            moe_intermediate_size=7, norm_topk_prob=True,
        )  # fmt: skip
        self.config = SimpleNamespace(
            model_config=SimpleNamespace(hf_text_config=text, max_model_len=64, dtype=torch.float32, quantization=None),
            cache_config=SimpleNamespace(cache_dtype="auto", enable_prefix_caching=True, block_size=BLOCK),
            scheduler_config=SimpleNamespace(max_num_batched_tokens=64),
        )
        self._chunk: int | None = None
        self._cache: set[tuple[int, ...]] = set()
        self._queue: dict[str, SimpleNamespace] = {}
        self._packed = Packed()

    def add(self, name: str, ids: Any, *, new: int, prompt_logits: bool) -> None:
        skipped = 0
        if not prompt_logits:
            whole = [n for n in range(BLOCK, len(ids), BLOCK) if tuple(ids[:n]) in self._cache]
            skipped = max(whole, default=0)
        self._queue[f"{name}-xyz"] = SimpleNamespace(
            ids=list(ids), prompt=len(ids), done=skipped, cached=skipped, new=new, made=[], logits=prompt_logits
        )

    def step(self) -> list[Any] | None:
        if not self._queue:
            return None
        parts = []
        for name, one in sorted(self._queue.items(), key=lambda item: item[1].done < item[1].prompt):
            if self.pushed_out and one.made and len(one.made) == 1:
                one.done = 0
            parts.append((name, one, one.ids[one.done : one.done + (self._chunk or len(one.ids))]))
        names = [name for name, _, _ in parts]
        told = [*names[1::-1], *names[2:]] if self.swapped else names
        self._packed = Packed(told, [len(ids) for _, _, ids in parts])
        ids = torch.tensor([token for _, _, part in parts for token in part] + [1] * self.padding)
        at = torch.tensor([one.done + n for _, one, part in parts for n in range(len(part))] + [0] * self.padding)
        hidden = self.model(input_ids=ids, positions=at)
        ends = torch.tensor([len(part) for _, _, part in parts]).cumsum(0)
        sampled = self.model.compute_logits(hidden[ends - 1]).argmax(-1)
        answers = []
        for (name, one, part), end, token in zip(parts, ends.tolist(), sampled.tolist(), strict=True):
            start, one.done = one.done, one.done + len(part)
            if one.logits and start < one.prompt:
                count = min(len(part), one.prompt - 1 - start)
                if count:
                    self.model.compute_logits(hidden[end - len(part) : end - len(part) + count])
            if one.done < len(one.ids):
                continue
            self._cache |= {tuple(one.ids[:n]) for n in range(BLOCK, len(one.ids) + 1, BLOCK)}
            one.made.append(token)
            one.ids.append(token)
            if len(one.made) == one.new:
                del self._queue[name]
                made = SimpleNamespace(token_ids=one.made)
                answers.append(
                    SimpleNamespace(request_id=name, finished=True, outputs=[made], num_cached_tokens=one.cached)
                )
        return answers

    def abort(self, names: Any) -> None:
        for name in names:
            self._queue.pop(f"{name}-xyz", None)

    def forget_prefixes(self) -> None:
        self._cache.clear()

    @contextmanager
    def chunked(self, chunk: int | None) -> Iterator[None]:
        self._chunk = chunk
        yield
        self._chunk = None

    @contextmanager
    def packed(self) -> Iterator[Any]:
        yield lambda: self._packed

    def close(self) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder that holds weights of some kind: a lineage needs them, the toy does not."""
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 8)
    return str(tmp_path)


@pytest.fixture
def toy(folder: str):
    """Makes a runner on a toy engine with given flaws."""

    def make(*, eager: bool = True, **flaws: Any) -> VllmRunner:
        return VllmRunner(folder, ToyEngine(**flaws), eager=eager, apart=True)  # pyright: ignore[reportArgumentType]

    return make
