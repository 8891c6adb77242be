"""Which tensor of the checkpoint goes where? Loads an HF folder, each tensor bound exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from parity.errors import CheckpointError
from parity_kernels.forward.config import ModelConfig
from parity_kernels.launch import ceil_div

Change = Callable[[str, torch.Tensor], torch.Tensor | None]

BLOCK = 128
FP8 = torch.float8_e4m3fn


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
    Raises CheckpointError when a tensor is missing, has another shape or dtype than the configuration implies, or is
    left over unbound at the end.
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
    """Hands out each tensor of the checkpoint once, checked, and knows what was never asked for."""

    def __init__(
        self, folder: Path, config: ModelConfig, *, keep_fp8: bool, device: torch.device, change: Change | None = None
    ) -> None:
        self.change = change
        self.bound: set[str] = set()
        self.config = config
        self.keep_fp8 = keep_fp8
        self.device = device
        self.folder = folder
        self.files = _index(folder)
        self.open = {name: safe_open(folder / name, framework="pt") for name in set(self.files.values())}
        self.unbound = set(self.files)

    def bind(self) -> Weights:
        c = self.config
        embed = self._plain("model.embed_tokens.weight", (c.vocab, c.hidden))
        layers = tuple(self._layer(index) for index in range(c.layers))
        norm = self._plain("model.norm.weight", (c.hidden,))
        if c.tied_embeddings:
            head = embed
            # Some exporters write the tied matrix a second time; it must then be the same one.
            if "lm_head.weight" in self.files and not self._plain("lm_head.weight", embed.shape).equal(embed):
                raise self._wrong("lm_head.weight", "the embedding matrix (tie_word_embeddings)", "other values")
        else:
            head = self._plain("lm_head.weight", (c.vocab, c.hidden))
        if self.unbound:
            raise CheckpointError(
                place=str(self.folder),
                expected="every tensor of the checkpoint bound exactly once",
                found=f"{len(self.unbound)} never bound, first {sorted(self.unbound)[:3]}",
                next_step="A tensor nobody asks for is a norm or a scale that is silently not applied: extend the "
                "loader, or remove the tensor.",
            )
        return Weights(embed=embed, layers=layers, final_norm=norm, head=head, bound=frozenset(self.bound))

    def _layer(self, index: int) -> LayerWeights:
        c, p = self.config, f"model.layers.{index}."
        q_rows, kv_rows = c.heads * c.head_dim, c.kv_heads * c.head_dim
        return LayerWeights(
            attn_norm=self._plain(p + "input_layernorm.weight", (c.hidden,)),
            q=self._matrix(p + "self_attn.q_proj.weight", (q_rows, c.hidden)),
            k=self._matrix(p + "self_attn.k_proj.weight", (kv_rows, c.hidden)),
            v=self._matrix(p + "self_attn.v_proj.weight", (kv_rows, c.hidden)),
            o=self._matrix(p + "self_attn.o_proj.weight", (c.hidden, q_rows)),
            q_norm=self._plain(p + "self_attn.q_norm.weight", (c.head_dim,)),
            k_norm=self._plain(p + "self_attn.k_norm.weight", (c.head_dim,)),
            mlp_norm=self._plain(p + "post_attention_layernorm.weight", (c.hidden,)),
            router=self._plain(p + "mlp.gate.weight", (c.experts, c.hidden)),
            gate_up=self._experts(p, ("gate_proj", "up_proj"), (c.expert_width, c.hidden)),
            down=self._experts(p, ("down_proj",), (c.hidden, c.expert_width)),
        )

    def _experts(self, prefix: str, parts: tuple[str, ...], shape: tuple[int, int]) -> Matrix:
        each = [
            [self._matrix(f"{prefix}mlp.experts.{expert}.{part}.weight", shape) for part in parts]
            for expert in range(self.config.experts)
        ]
        first = each[0][0]
        data = torch.empty((len(each), len(parts), *shape), dtype=first.data.dtype, device=self.device)
        scale = None
        if first.scale is not None:
            scale = torch.empty((len(each), len(parts), *first.scale.shape), dtype=torch.float32, device=self.device)
        for expert, row in enumerate(each):
            for part, matrix in enumerate(row):
                if matrix.data.dtype is not first.data.dtype:
                    name = f"{prefix}mlp.experts.{expert}.{parts[part]}.weight"
                    raise self._wrong(name, f"dtype {first.data.dtype} like the other experts", str(matrix.data.dtype))
                data[expert, part] = matrix.data
                if scale is not None and matrix.scale is not None:
                    scale[expert, part] = matrix.scale
        return Matrix(data, scale)

    def _matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        data = self._take(name, shape)
        scale_name = f"{name}_scale_inv"
        if data.dtype is torch.bfloat16:
            return Matrix(data)
        if data.dtype is not FP8:
            raise self._wrong(name, "dtype bfloat16 or float8_e4m3fn", str(data.dtype))
        scale = self._take(scale_name, (ceil_div(shape[0], BLOCK), ceil_div(shape[1], BLOCK))).float()
        if self.keep_fp8:
            return Matrix(data, scale)
        wide = scale.repeat_interleave(BLOCK, 0)[: shape[0]].repeat_interleave(BLOCK, 1)[:, : shape[1]]
        return Matrix((data.float() * wide).to(torch.bfloat16))

    def _plain(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        data = self._take(name, shape)
        if data.dtype is not torch.bfloat16:
            raise self._wrong(name, "dtype bfloat16", str(data.dtype))
        return data

    def _take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name not in self.unbound:
            found = "bound twice" if name in self.files else "no such tensor"
            raise self._wrong(name, "one tensor of this name, bound once", found)
        self.unbound.remove(name)
        data: torch.Tensor = self.open[self.files[name]].get_tensor(name)
        if self.change is not None:
            changed = self.change(name, data)
            if changed is None:
                scale = name.endswith("_scale_inv")
                if not scale and len(shape) != 1:
                    raise self._wrong(name, "a norm's gain or a scale, which can be left unbound", f"{list(shape)}")
                return torch.ones(shape, dtype=torch.float32 if scale else torch.bfloat16, device=self.device)
            data = changed
        self.bound.add(name)
        if tuple(data.shape) != shape:
            raise self._wrong(name, f"shape {list(shape)}", str(list(data.shape)))
        return data.to(self.device)

    def _wrong(self, name: str, expected: str, found: str) -> CheckpointError:
        return CheckpointError(
            place=f"{self.folder}, tensor {name}",
            expected=expected,
            found=found,
            next_step="Check config.json against the checkpoint, or download it again.",
        )


def _index(folder: Path) -> dict[str, str]:
    """Tensor name to file name, from the shard index or the single file."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = json.loads(index.read_text())["weight_map"]
    else:
        files = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as handle:
                files.update(dict.fromkeys(handle.keys(), path.name))
    missing = sorted({name for name in files.values() if not (folder / name).is_file()})
    if missing or not files:
        raise CheckpointError(
            place=str(folder),
            expected="the safetensors files of the model",
            found=f"missing {missing}" if missing else "none",
            next_step="Download the checkpoint again, all shards.",
        )
    return files
