"""What do the engine's operations read? Weights and values, taken from the arguments of each op of one short run.

Two taps. One sees the engine's own call: what it hands to an op is what it bound. The other sits inside whatever
replaces an op, next to the kernel, and sees what the kernel gets, and which values it is told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from parity.audit.tensors import BindingReport, Observed, Piece, TensorProbe, probe_tensor
from parity.records import site_name
from parity_kernels.forward.ops import OPS, Op

# Arguments that are weights: the kind, and the stage that reads it where it is not the call's role.
WEIGHTS: dict[str, dict[str, tuple[str, str | None]]] = {
    "embed": {"weight": ("weight", None)},
    "add_rmsnorm": {"weight": ("weight", None)},
    "linear_fp8": {"weight": ("weight", None), "weight_scale": ("scale", None)},
    "linear_bf16": {"weight": ("weight", None)},
    "qk_norm_rope": {"q_weight": ("weight", "attn.q_norm"), "k_weight": ("weight", "attn.k_norm")},
    "router": {"weight": ("weight", None)},
    "grouped_gemm_fp8": {"weight": ("weight", None), "weight_scale": ("scale", None)},
    "grouped_gemm_bf16": {"weight": ("weight", None)},
}
PARTS = {"moe.gate_up": ("moe.gate", "moe.up"), "moe.down": ("moe.down",)}
"""Stages of a grouped weight [E, P, N, K], by part."""

# Arguments that are hyper-parameters, by canonical name.
SETTINGS: dict[str, dict[str, str]] = {
    "add_rmsnorm": {"eps": "rms_eps"},
    "qk_norm_rope": {"eps": "rms_eps", "inv_freq": "inv_freq"},
    "attention_prefill": {"scale": "softmax_scale"},
    "attention_decode": {"scale": "softmax_scale"},
    "router": {"top_k": "top_k", "renormalize": "norm_topk_prob"},
}

_SIGNATURES = {name: inspect.signature(op) for name, op in OPS.items()}

Key = tuple[int | None, str, int | None, str]
"""Layer, stage, expert, kind."""

Contents = dict[str, tuple[TensorProbe, int]]
"""By digest: what was read, and how often."""


@dataclass
class _Seen:
    """What came by at one tap: contents with their number of reads, values with their places, in order,
    and the calls that read each piece."""

    pieces: dict[Key, Contents] = field(default_factory=dict)
    values: dict[str, dict[Any, list[str]]] = field(default_factory=dict)
    calls: dict[Key, set[str]] = field(default_factory=dict)


class Reading:
    """Listens to the ops of one engine. `kernel` and `call` are the two taps' listeners."""

    def __init__(self, place: Callable[[], tuple[str, int | None]]) -> None:
        self._place = place
        self._inner, self._outer = _Seen(), _Seen()
        # A temporary copy keeps its address only as long as it lives: keep what was probed.
        self._probed: dict[tuple[Any, ...], tuple[torch.Tensor, list[TensorProbe]]] = {}

    def kernel(self, op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._hear(self._inner, op, args, kwargs)

    def call(self, op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._hear(self._outer, op, args, kwargs)

    def around(self, name: str, op: Op) -> Op:
        """`op` with the outer tap before it."""

        def told(*args: Any, **kwargs: Any) -> Any:
            self.call(name, args, kwargs)
            return op(*args, **kwargs)

        return told

    def report(self, *, steps: int, bound: frozenset[str] | None) -> BindingReport:
        """All that was read. What the engine hands over is what it bound; a kernel that gets something else gets it
        from its op, which may rewrite operands and be right (a weight and its input permuted alike), or may not."""
        given, got = self._outer.pieces, self._inner.pieces
        same = {key: found for key, found in given.items() if got.get(key, {}).keys() == found.keys()}
        rewritten = {key: found for key, found in got.items() if key in given and key not in same}
        pieces = (
            *_pieces(same, "kernel"),
            *_pieces({key: found for key, found in given.items() if key not in same}, "call"),
            *_pieces({key: found for key, found in got.items() if key not in given}, "kernel"),
        )
        changed = {call for key in rewritten for call in self._inner.calls[key]}
        observed = []
        for name in dict.fromkeys((*self._inner.values, *self._outer.values)):
            told: dict[Any, list[str]] = {}
            heard: set[str] = set()
            for value, places in self._inner.values.get(name, {}).items():
                heard |= {place for place in places if place not in changed}
                told[value] = [place for place in places if place not in changed]
            for value, places in self._outer.values.get(name, {}).items():
                told.setdefault(value, []).extend(place for place in places if place not in heard)
            observed += [
                Observed(name, value, tuple(dict.fromkeys(places))) for value, places in told.items() if places
            ]
        return BindingReport(pieces, tuple(observed), steps, bound, tuple(_pieces(rewritten, "kernel")))

    def _hear(self, seen: _Seen, op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = _SIGNATURES[op].bind(*args, **{k: v for k, v in kwargs.items() if k != "launch"}).arguments
        role, layer = self._place()
        for argument, (kind, stage) in WEIGHTS.get(op, {}).items():
            tensor = given.get(argument)
            if isinstance(tensor, torch.Tensor):
                self._hear_weight(seen, layer, stage or role, kind, tensor, site_name(layer, role))
        for argument, name in SETTINGS.get(op, {}).items():
            if argument in given:
                self._hear_value(seen, name, given[argument], site_name(layer, role))
        self._hear_shapes(seen, op, given, site_name(layer, role))

    def _hear_weight(
        self, seen: _Seen, layer: int | None, stage: str, kind: str, tensor: torch.Tensor, call: str
    ) -> None:
        probes = self._probes(tensor)
        if tensor.dim() == 4:
            parts = PARTS.get(stage, (stage,) * tensor.shape[1])
            places = [(part, expert) for expert in range(tensor.shape[0]) for part in parts]
        else:
            places = [(stage, None)]
        for (part, expert), probe in zip(places, probes, strict=False):
            contents = seen.pieces.setdefault((layer, part, expert, kind), {})
            seen.calls.setdefault((layer, part, expert, kind), set()).add(call)
            _, reads = contents.get(probe.digest, (probe, 0))
            contents[probe.digest] = (probe, reads + 1)

    def _probes(self, tensor: torch.Tensor) -> list[TensorProbe]:
        """One probe a matrix: a grouped weight holds experts times parts."""
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key not in self._probed:
            flat = tensor.flatten(0, 1) if tensor.dim() == 4 else tensor[None]
            self._probed[key] = (tensor, [probe_tensor(one) for one in flat])
        return self._probed[key][1]

    def _hear_value(self, seen: _Seen, name: str, value: Any, place: str) -> None:
        if isinstance(value, torch.Tensor):
            value = tuple(value.detach().flatten().tolist())
        seen.values.setdefault(name, {}).setdefault(value, []).append(place)

    def _hear_shapes(self, seen: _Seen, op: str, given: Mapping[str, Any], place: str) -> None:
        """Sizes that a kernel reads off its operands, and the dtype of the cache that it writes."""
        if op == "qk_norm_rope":
            for name, value in (("heads", given["q"].shape[1]), ("kv_heads", given["k"].shape[1]),
                                ("head_dim", given["q"].shape[2])):  # fmt: skip
                self._hear_value(seen, name, int(value), place)
        elif op == "kv_write":
            short = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
            dtype = given["cache_k"].dtype
            self._hear_value(seen, "kv_cache", short.get(dtype, str(dtype).removeprefix("torch.")), place)
        elif op == "permute":
            self._hear_value(seen, "experts", given["n_experts"], place)


def _pieces(seen: Mapping[Key, Contents], by: str) -> Iterator[Piece]:
    for (layer, stage, expert, kind), contents in seen.items():
        for probe, reads in contents.values():
            yield Piece(layer, stage, expert, kind, probe, reads=reads, by=by)
