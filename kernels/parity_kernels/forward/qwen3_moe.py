"""The production forward pass of a qwen3_moe decoder: one step in, logits out, every stage passed through a probe.

Shapes: T token rows, D hidden, H/G query and key/value heads of K, E experts, S slots, R = T*S expert rows, F width.
The residual add of a layer's end happens in the kernel of the next norm, so `resid.out` appears there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from parity.faults import Where
from parity.probes import OFF, Probe
from parity.records import Rows
from parity_kernels.forward.arena import Arena
from parity_kernels.forward.batch import Step
from parity_kernels.forward.cache import KVCache
from parity_kernels.forward.config import ModelConfig
from parity_kernels.forward.launched import Launched, TellingProbe
from parity_kernels.forward.ops import LAUNCHES, OPS, Op
from parity_kernels.forward.weights import LayerWeights, Matrix, Weights
from parity_kernels.launch import Launch, heard_by

BF16 = torch.bfloat16
FP8 = torch.float8_e4m3fn
BLOCK = 128


class Qwen3Moe:
    """Weights, buffers and ops of one engine instance; `ops` and `launches` are its own and may be replaced."""

    def __init__(self, config: ModelConfig, weights: Weights, arena: Arena) -> None:
        self.config = config
        self.weights = weights
        self.arena = arena
        self.ops: dict[str, Op] = {name: self._heard(name, op) for name, op in OPS.items()}
        # Hears the arguments of each op right before its kernel, beneath whatever replaces the op.
        self.listener: Callable[[str, tuple[Any, ...], dict[str, Any]], None] | None = None
        self.launches: dict[str, Op] = dict(LAUNCHES)
        self.on_layer: Callable[[], None] | None = None
        # Where the forward pass stands, for planted faults.
        self.role: str = ""
        self.layer: int | None = None
        self.phase, self.number, self.chunk, self.traced = "prefill", 0, 0, False
        half = config.head_dim // 2
        exponent = torch.arange(half, dtype=torch.float64) * 2 / config.head_dim
        self.inv_freq = (config.rope_theta**-exponent).to(torch.float32).to(arena.device)

    def step(self, step: Step, cache: KVCache, probe: Probe, *, all_logits: bool) -> torch.Tensor:
        """Run one step: [T] ids to logits [T, V], or [B, V] of each request's last row unless `all_logits`; fp32.

        Writes the step's keys and values into `cache`. `probe` sees each stage and may replace it.
        """
        self.phase, self.number, self.chunk = step.phase, step.index, step.chunk
        self.traced = probe is not OFF.step()
        if not self.traced:
            return self._forward(step, cache, probe, all_logits)
        launched = Launched(lambda: (self.role, self.layer))
        with heard_by(launched.hear):
            return self._forward(step, cache, TellingProbe(probe, launched), all_logits)

    def _forward(self, step: Step, cache: KVCache, probe: Probe, all_logits: bool) -> torch.Tensor:
        c = self.config
        hidden = self._take("embed", (len(step.ids), c.hidden))
        embed = self._op("embed", "embed.out", None)
        hidden = probe("embed.out", embed(step.ids, self.weights.embed, out=hidden), None)
        residual, layer_output = hidden, None
        for index, weights in enumerate(self.weights.layers):
            previous = index - 1 if index else None
            normed, residual = self._add_norm(
                layer_output, residual, weights.attn_norm, probe, ("resid.out", previous), ("attn.norm", index)
            )
            attended = self._attention(normed, index, weights, step, cache, probe)
            normed, residual = self._add_norm(
                attended, residual, weights.mlp_norm, probe, ("resid.mid", index), ("mlp.norm", index)
            )
            layer_output = self._moe(normed, index, weights, step, probe)
            if self.on_layer is not None:
                self.on_layer()
        normed, _ = self._add_norm(
            layer_output, residual, self.weights.final_norm, probe, ("resid.out", c.layers - 1), ("final_norm", None)
        )
        rows = step.rows
        if not all_logits:
            last = step.row_start[1:].long() - 1
            normed, rows = normed[last].contiguous(), rows.take(last.cpu().numpy())
        out = self._take("logits", (len(normed), c.vocab), torch.float32)
        head = self._op("linear_bf16", "logits", None)
        logits = head(normed, self.weights.head, out_dtype=torch.float32, out=out)
        return probe("logits", logits, None, rows=rows)

    def _add_norm(
        self,
        x: torch.Tensor | None,
        residual: torch.Tensor,
        weight: torch.Tensor,
        probe: Probe,
        sum_site: tuple[str, int | None],
        norm_site: tuple[str, int | None],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One kernel: residual += x, then its RMSNorm; without x (the first layer) the norm alone."""
        op, eps = self._op("add_rmsnorm", *norm_site), self.config.rms_eps
        # Two sums alternate, since the kernel reads one residual while it writes the next.
        out, out_sum = self._take("norm", residual.shape), self._take(f"sum.{sum_site[0]}", residual.shape)
        if x is None:
            normed, summed = op(residual, None, weight, eps=eps, out=out)
        else:
            normed, summed = op(x, residual, weight, eps=eps, out=out, out_sum=out_sum)
            grafted = probe(sum_site[0], summed, sum_site[1])
            if grafted is not summed:
                # Plus -0, which changes no bit of any number: the kernel as it is always called, with two terms.
                nothing = torch.full_like(grafted, -0.0)
                normed, _ = op(grafted, nothing, weight, eps=eps, out=out, out_sum=out_sum)
                summed = grafted
        return probe(norm_site[0], normed, norm_site[1]), summed

    def _attention(
        self, normed: torch.Tensor, index: int, weights: LayerWeights, step: Step, cache: KVCache, probe: Probe
    ) -> torch.Tensor:
        c, tokens = self.config, len(normed)
        x = self._quantized(normed, weights.q, "attn.q", index)
        heads = {}
        for name, matrix in (("q", weights.q), ("k", weights.k), ("v", weights.v)):
            flat = self._linear(x, matrix, name, f"attn.{name}", index)
            heads[name] = probe(f"attn.{name}", flat.view(tokens, -1, c.head_dim), index)
        inner = {
            name: self._take(f"{name}_norm", heads[name].shape) if probe.wants(f"attn.{name}_norm", index) else None
            for name in ("q", "k")
        }
        q, k = self._op("qk_norm_rope", "attn.q_rope", index)(
            heads["q"],
            heads["k"],
            weights.q_norm,
            weights.k_norm,
            step.positions,
            self.inv_freq,
            eps=c.rms_eps,
            q_norm_out=inner["q"],
            k_norm_out=inner["k"],
            out_q=self._take("q_rope", heads["q"].shape),
            out_k=self._take("k_rope", heads["k"].shape),
        )
        for name, tensor in inner.items():
            self._look(probe, f"attn.{name}_norm", tensor, index)
        q, k = probe("attn.q_rope", q, index), probe("attn.k_rope", k, index)
        keys, values = cache.keys[index], cache.values[index]
        self._op("kv_write", "attn.context", index)(k, heads["v"], keys, values, step.row_slot, step.positions)
        scale, out = c.head_dim**-0.5, self._take("context", q.shape)
        if step.phase == "decode":
            context = self._op("attention_decode", "attn.context", index)(
                q, keys, values, slots=step.slots, positions=step.first_position, max_context=step.max_context,
                scale=scale, out=out,
            )  # fmt: skip
        else:
            context = self._op("attention_prefill", "attn.context", index)(
                q, keys, values, row_start=step.row_start, slots=step.slots, first_position=step.first_position,
                max_rows=step.max_rows, max_context=step.max_context, scale=scale, out=out,
            )  # fmt: skip
        context = probe("attn.context", context, index)
        x = self._quantized(context.view(tokens, -1), weights.o, "attn.out", index)
        flat = self._linear(x, weights.o, "attn_out", "attn.out", index)
        return probe("attn.out", flat, index)

    def _moe(self, normed: torch.Tensor, index: int, weights: LayerWeights, step: Step, probe: Probe) -> torch.Tensor:
        c, tokens = self.config, len(normed)
        ids, routing = self._route(normed, index, weights, probe)
        permutation = self._op("permute", "moe.topk_ids", index)(ids, n_experts=c.experts)
        n_rows = tokens * c.top_k
        seen: dict[str, Any] = {}
        if any(probe.wants(stage, index) for stage in ("moe.gate", "moe.up", "moe.act", "moe.down")):
            seen = self._expert_rows(permutation, ids, step)

        x = self._quantized(normed, weights.gate_up, "moe.gate_up", index)
        launch = self._grouped_launch("gate_up", tokens, c.expert_width, 2, index)
        out = self._take("gate_up", (n_rows, 2, c.expert_width))
        gate_up = self._grouped(x, weights.gate_up, permutation.expert_offsets, permutation.row_token, n_rows, out,
                                launch, index)  # fmt: skip
        for part, stage in enumerate(("moe.gate", "moe.up")):
            grafted = probe(stage, gate_up[:, part], index, launch=launch, **seen)
            if grafted.data_ptr() != gate_up[:, part].data_ptr():
                gate_up[:, part] = grafted
        act = self._activate(gate_up, index, weights, probe, seen)

        launch = self._grouped_launch("down", tokens, c.hidden, 1, index)
        out = self._take("down", (n_rows, 1, c.hidden))
        down = self._grouped(act, weights.down, permutation.expert_offsets, None, n_rows, out, launch, index)[:, 0]
        down = probe("moe.down", down, index, launch=launch, **seen)
        out = self._take("experts", (tokens, c.hidden))
        combine = self._op("combine", "moe.experts", index)
        combined = combine(down.contiguous(), permutation.slot_row, routing, out=out)
        return probe("moe.experts", combined, index)

    def _route(
        self, normed: torch.Tensor, index: int, weights: LayerWeights, probe: Probe
    ) -> tuple[torch.Tensor, torch.Tensor]:
        c, shape = self.config, (len(normed), self.config.experts)
        logits = None
        if any(probe.wants(f"moe.{name}", index) for name in ("router_logits", "topk_ids")):
            logits = self._take("router_logits", shape, torch.float32)
        ids, routing = self._op("router", "moe.router_logits", index)(
            normed, weights.router, top_k=c.top_k, renormalize=c.norm_topk_prob, logits_out=logits
        )
        self._look(probe, "moe.router_logits", logits, index)
        chosen = probe("moe.topk_ids", ids, index)
        if logits is not None and not torch.equal(chosen, ids):
            routing = self._weights_of(chosen, ids, routing, logits)
            ids = chosen.contiguous()
        return ids, probe("moe.topk_weights", routing, index)

    def _weights_of(
        self, chosen: torch.Tensor, ids: torch.Tensor, routing: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        """Weights [T, S] of experts that were put in place of the router's own choice `ids`.

        Tokens whose experts stay keep the kernel's own weights, slot by slot: what a kernel does wrong must not vanish
        because another token went elsewhere. Those of other experts follow from the same logits.
        """
        ranked, own = chosen.sort(-1), ids.sort(-1)
        kept = (ranked.values == own.values).all(-1, keepdim=True)
        moved = torch.empty_like(routing).scatter_(-1, ranked.indices, routing.gather(-1, own.indices))
        other = logits.softmax(-1).gather(1, chosen.long())
        if self.config.norm_topk_prob:
            other = other / other.sum(-1, keepdim=True)
        return torch.where(kept, moved, other.to(moved.dtype))

    def _activate(
        self, gate_up: torch.Tensor, index: int, weights: LayerWeights, probe: Probe, seen: dict[str, Any]
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """silu(gate) * up, ready for the second GEMM: quantized in the same kernel when its weights are FP8."""
        shape = (gate_up.shape[0], self.config.expert_width)
        if weights.down.scale is None:
            silu_mul = self._op("silu_mul", "moe.act", index)
            return probe("moe.act", silu_mul(gate_up, out=self._take("act", shape)), index, **seen)
        shown = self._take("act", shape) if probe.wants("moe.act", index) else None
        silu_mul_quant = self._op("silu_mul_quant", "moe.act", index)
        quantized = silu_mul_quant(gate_up, act_out=shown, **self._quantized_buffers("act", *shape))
        if shown is not None:
            grafted = probe("moe.act", shown, index, **seen)
            if grafted is not shown:
                quantized = self._op("quantize_rows", "moe.down", index)(grafted.contiguous())
        return quantized

    def _quantized(
        self, x: torch.Tensor, weight: Matrix, role: str, index: int
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """`x` as the GEMM of `weight` reads it: itself in BF16, (values, scales) in FP8."""
        if weight.scale is None:
            return x
        return self._op("quantize_rows", role, index)(x, **self._quantized_buffers("x", *x.shape))

    def _linear(
        self, x: torch.Tensor | tuple[torch.Tensor, torch.Tensor], weight: Matrix, buffer: str, role: str, index: int
    ) -> torch.Tensor:
        rows = len(x) if isinstance(x, torch.Tensor) else len(x[0])
        out = self._take(buffer, (rows, weight.data.shape[0]))
        if isinstance(x, torch.Tensor):
            return self._op("linear_bf16", role, index)(x, weight.data, out=out)
        return self._op("linear_fp8", role, index)(*x, weight.data, weight.scale, out=out)

    def _grouped(
        self,
        x: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        weight: Matrix,
        expert_offsets: torch.Tensor,
        row_index: torch.Tensor | None,
        n_rows: int,
        out: torch.Tensor,
        launch: Launch,
        index: int,
    ) -> torch.Tensor:
        role = "moe.gate_up" if weight.data.shape[1] == 2 else "moe.down"
        where = dict(expert_offsets=expert_offsets, row_index=row_index, n_rows=n_rows, out=out, launch=launch)
        if isinstance(x, torch.Tensor):
            return self._op("grouped_gemm_bf16", role, index)(x, weight.data, **where)
        return self._op("grouped_gemm_fp8", role, index)(*x, weight.data, weight.scale, **where)

    def _grouped_launch(self, op: str, tokens: int, columns: int, parts: int, index: int) -> Launch:
        c = self.config
        self.role, self.layer = f"moe.{op}", index
        return self.launches["grouped_gemm"](
            op=op, n_tokens=tokens, top_k=c.top_k, n_experts=c.experts, n_cols=columns, n_parts=parts
        )

    def _expert_rows(self, permutation: Any, ids: torch.Tensor, step: Step) -> dict[str, Any]:
        """What a trace needs to know of the rows sorted by expert: token, slot and expert of each, and the tiles."""
        token = permutation.row_token.cpu().numpy()
        slot = permutation.row_slot.cpu().numpy()
        expert = ids.cpu().numpy()[token, slot]
        rows = Rows(step.rows.request[token], step.rows.position[token], slot, expert)
        return {"rows": rows, "geometry": {"tile_m": 64, "expert_offsets": permutation.expert_offsets.tolist()}}

    def _look(self, probe: Probe, stage: str, tensor: torch.Tensor | None, index: int) -> None:
        """Show a tensor that lives inside a fused kernel; nothing downstream reads it, so it cannot be replaced."""
        if tensor is not None:
            probe(stage, tensor, index, replaceable=False)

    def _quantized_buffers(self, name: str, rows: int, width: int) -> dict[str, torch.Tensor]:
        blocks = -(-width // BLOCK)
        return {
            "out_q": self._take(f"{name}.q", (rows, width), FP8),
            "out_s": self._take(f"{name}.s", (rows, blocks), torch.float32),
        }

    def _op(self, name: str, role: str, layer: int | None) -> Op:
        """The op called `name`, about to compute `role` of `layer`: a planted fault asks which call it is in."""
        self.role, self.layer = role, layer
        return self.ops[name]

    def _heard(self, name: str, op: Op) -> Op:
        @wraps(op)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.listener is not None:
                self.listener(name, args, kwargs)
            return op(*args, **kwargs)

        return call

    def where(self, name: str) -> Where:
        """The call in progress of the op or launch function `name`."""
        return Where(name, self.role, self.layer, self.phase, self.number, self.chunk, self.traced, arena=self.arena)

    def _take(self, name: str, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype = BF16) -> torch.Tensor:
        return self.arena.take(name, tuple(shape), dtype)
