"""Which tensor of the checkpoint goes where? Loads an HF folder, each tensor bound exactly once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from parity.errors import CheckpointError
from parity_kernels.forward.config import ModelConfig
from parity_kernels.forward.files import Shards
from parity_kernels.forward.inventory import BLOCK, SCALE, check_inventory

FP8 = torch.float8_e4m3fn


Change = Callable[[str, torch.Tensor], torch.Tensor | None]


@dataclass(frozen=True)
class Matrix:
    """A weight as the GEMMs take it: bf16 with no scale, or E4M3 with one fp32 scale a 128x128 block.

    data: [N, K] for a linear, [E, P, N, K] for a grouped one; scale: the same with N and K in blocks, or None.
    """

    data: torch.Tensor
    scale: torch.Tensor | None = None


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. gate_up: [E, 2, F, D]; down: [E, 1, D, F]."""

    attn_norm: torch.Tensor
    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    mlp_norm: torch.Tensor
    router: torch.Tensor
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True)
class Weights:
    """All of a model. bound: names of the checkpoint's tensors that these were made from."""

    embed: torch.Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor
    head: torch.Tensor
    bound: frozenset[str] = frozenset()


def load_weights(
    folder: Path, config: ModelConfig, *, recipe: str, device: torch.device, change: Change | None = None
) -> Weights:
    """Load the checkpoint in `folder` for `recipe` (`bf16`, or `fp8_block` which needs a block-FP8 checkpoint).

    A BF16 run of an FP8 checkpoint dequantizes it block by block.
    change: a faulty loader's step: gets each tensor by its name in the checkpoint as it is bound and returns the one to
    bind, or None to bind nothing (a norm's gain and a scale are then 1), which counts as matched, silently.
    Raises CheckpointError, before a weight is loaded, for whatever `Shards` and `check_inventory` refuse.
    """
    if recipe == "fp8_block" and config.quantization != "fp8_block":
        raise CheckpointError(
            place=str(folder),
            expected="a block-FP8 checkpoint for recipe fp8_block",
            found=f"quantization {config.quantization}",
            next_step="Use the FP8 folder of this model, or run recipe bf16.",
        )
    return _Binder(folder, config, keep_fp8=recipe == "fp8_block", device=device, change=change).bind()


class _Binder:
    """Hands out each tensor of a checked checkpoint once, and knows what was never asked for."""

    def __init__(
        self, folder: Path, config: ModelConfig, *, keep_fp8: bool, device: torch.device, change: Change | None = None
    ) -> None:
        self.change = change
        self.bound: set[str] = set()
        self.config = config
        self.keep_fp8 = keep_fp8
        self.device = device
        self.folder = folder
        self.shards = Shards(folder)
        check_inventory(self.shards, config)
        self.unbound = set(self.shards.stored)

    def bind(self) -> Weights:
        c = self.config
        embed = self._take("model.embed_tokens.weight")
        layers = tuple(self._layer(index) for index in range(c.layers))
        norm = self._take("model.norm.weight")
        head = embed if c.tied_embeddings else self._take("lm_head.weight")
        if c.tied_embeddings:
            self.unbound.discard("lm_head.weight")  # the same bits, as the inventory has checked
        if self.unbound:
            raise self._wrong(
                ", ".join(sorted(self.unbound)[:3]),
                "every tensor of the checkpoint bound exactly once",
                f"{len(self.unbound)} never bound",
            )
        return Weights(embed=embed, layers=layers, final_norm=norm, head=head, bound=frozenset(self.bound))

    def _layer(self, index: int) -> LayerWeights:
        p = f"model.layers.{index}."
        return LayerWeights(
            attn_norm=self._take(p + "input_layernorm.weight"),
            q=self._matrix(p + "self_attn.q_proj.weight"),
            k=self._matrix(p + "self_attn.k_proj.weight"),
            v=self._matrix(p + "self_attn.v_proj.weight"),
            o=self._matrix(p + "self_attn.o_proj.weight"),
            q_norm=self._take(p + "self_attn.q_norm.weight"),
            k_norm=self._take(p + "self_attn.k_norm.weight"),
            mlp_norm=self._take(p + "post_attention_layernorm.weight"),
            router=self._take(p + "mlp.gate.weight"),
            gate_up=self._experts(p, ("gate_proj", "up_proj")),
            down=self._experts(p, ("down_proj",)),
        )

    def _experts(self, prefix: str, parts: tuple[str, ...]) -> Matrix:
        names = [
            [f"{prefix}mlp.experts.{expert}.{part}.weight" for part in parts] for expert in range(self.config.experts)
        ]
        first = self._matrix(names[0][0])
        data = torch.empty((len(names), len(parts), *first.data.shape), dtype=first.data.dtype, device=self.device)
        scale = None
        if first.scale is not None:
            scale = torch.empty((len(names), len(parts), *first.scale.shape), dtype=torch.float32, device=self.device)
        for expert, row in enumerate(names):
            for part, name in enumerate(row):
                matrix = first if name == names[0][0] else self._matrix(name)
                if matrix.data.dtype is not first.data.dtype:
                    found = str(matrix.data.dtype)
                    raise self._wrong(name, f"dtype {first.data.dtype} like the other experts", found)
                data[expert, part] = matrix.data
                if scale is not None and matrix.scale is not None:
                    scale[expert, part] = matrix.scale
        return Matrix(data, scale)

    def _matrix(self, name: str) -> Matrix:
        data = self._take(name)
        if data.dtype is not FP8:
            return Matrix(data)
        scale = self._take(name + SCALE).float()
        if self.keep_fp8:
            return Matrix(data, scale)
        rows, columns = data.shape
        wide = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
        return Matrix((data.float() * wide).to(torch.bfloat16))

    def _take(self, name: str) -> torch.Tensor:
        if name not in self.unbound:
            found = "bound twice" if name in self.shards.stored else "no such tensor"
            raise self._wrong(name, "one tensor of this name, bound once", found)
        self.unbound.remove(name)
        data = self.shards.read(name)
        shape = tuple(data.shape)
        if self.change is not None:
            changed = self.change(name, data)
            if changed is None:
                scale = name.endswith(SCALE)
                if not scale and len(shape) != 1:
                    raise self._wrong(name, "a norm's gain or a scale, which can be left unbound", f"{list(shape)}")
                return torch.ones(shape, dtype=torch.float32 if scale else torch.bfloat16, device=self.device)
            data = changed
        self.bound.add(name)
        if tuple(data.shape) != shape or data.dtype not in (torch.bfloat16, FP8, torch.float32):
            found = f"{data.dtype} {list(data.shape)}"
            raise self._wrong(name, f"shape {list(shape)} in bfloat16 or float8_e4m3fn", found)
        return data.to(self.device)

    def _wrong(self, name: str, expected: str, found: str) -> CheckpointError:
        return CheckpointError(
            place=f"{self.folder}, tensor {name}",
            expected=expected,
            found=found,
            next_step="Check config.json against the checkpoint, or download it again.",
        )
