"""How does a Hugging Face folder become a GGUF file? Our own conversion, tensor by tensor.

Names and metadata keys are those of GGUF (ggml/docs/gguf.md) as llama.cpp reads them. Norms and routers are F32
whatever the type asked for, as llama.cpp's own converter leaves them. Arch `llama` turns neighbouring pairs in its rope
where Hugging Face turns halves: rows of q and k are reordered within each head; qwen3 and qwen3moe turn halves too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from parity.errors import ConfigError, UsageError
from parity.trace import lineage_of
from parity_oracles.checkpoint import Checkpoint, Hyper, layout, read_checkpoint

ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3", "qwen3_moe": "qwen3moe"}
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
VERSION = 1
"""Of this conversion: a change of what it writes makes cached files stale."""

LINEAGE = "parity.lineage"
"""Metadata under which a converted file says of which checkpoint it is."""

LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True)
class Doctored:
    """What to do wrong, for planted faults. permute: reorder rows of q and k where the architecture needs it.
    metadata: values in the place of the right ones, by key without the architecture's prefix."""

    permute: bool = True
    metadata: Mapping[str, Any] | None = None


def convert(
    folder: str | Path, *, dtype: str = "f32", cache: str | Path | None = None, doctored: Doctored = Doctored()
) -> Path:
    """The GGUF file of HF model folder `folder` with its matrices in `dtype`, made once and kept in `cache`.

    dtype: `f32`, `bf16` or `q8_0`; a block-FP8 checkpoint is dequantized first. cache: a folder, by default
    $XDG_CACHE_HOME/parity-lab/gguf. The file's name is a hash of the weights, config.json and everything asked here.
    Raises UsageError for another dtype, ConfigError for a model that llama.cpp computes otherwise.
    """
    if dtype not in TYPES:
        raise UsageError(
            place="conversion to GGUF", expected=f"dtype one of {', '.join(TYPES)}", found=repr(dtype),
            next_step="Other types of llama.cpp are made by its own tools; open the .gguf file itself.",
        )  # fmt: skip
    checkpoint = read_checkpoint(folder)
    refuse_unlike(checkpoint.hyper, dtype)
    lineage = lineage_of(checkpoint.folder)
    asked = f"{VERSION} {dtype} {lineage} {doctored} {sorted(checkpoint.config.items(), key=repr)}"
    place = default_cache() if cache is None else Path(cache)
    path = place / f"{checkpoint.folder.name}-{dtype}-{sha256(asked.encode()).hexdigest()[:20]}.gguf"
    if not path.exists():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            made = Path(scratch) / path.name
            _write(checkpoint, made, dtype, doctored, [lineage.root, *lineage.conversions])
            os.replace(made, path)  # never half a file under the final name
    return path


def default_cache() -> Path:
    """Where converted files are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parity-lab" / "gguf"


def refuse_unlike(hyper: Hyper, dtype: str) -> None:
    """Raise ConfigError for a model that llama.cpp would not compute as it is meant."""
    wrong = ""
    if hyper.experts and not hyper.norm_topk_prob:
        wrong = "norm_topk_prob false (llama.cpp always divides the chosen weights by their sum in qwen3moe)"
    widths = {hyper.hidden, hyper.heads * hyper.head_dim, hyper.expert_width}
    if dtype == "q8_0" and any(width % 32 for width in widths):
        wrong = f"reduced widths {sorted(widths)} for Q8_0, whose blocks are 32 wide"
    if wrong:
        raise ConfigError(
            place="conversion to GGUF", expected="a model that llama.cpp computes as Hugging Face does", found=wrong,
            next_step="Convert with dtype f32 or bf16." if dtype == "q8_0" else "Compare it with another engine.",
        )  # fmt: skip


def metadata(hyper: Hyper) -> dict[str, Any]:
    """Metadata by key, without the architecture's prefix."""
    found: dict[str, Any] = {
        "vocab_size": hyper.vocab,
        "context_length": hyper.max_positions,
        "embedding_length": hyper.hidden,
        "block_count": hyper.layers,
        "feed_forward_length": hyper.expert_width,
        "attention.head_count": hyper.heads,
        "attention.head_count_kv": hyper.kv_heads,
        "attention.key_length": hyper.head_dim,
        "attention.value_length": hyper.head_dim,
        "attention.layer_norm_rms_epsilon": float(hyper.rms_eps),
        "rope.freq_base": float(hyper.rope_theta),
        "rope.dimension_count": hyper.head_dim,
    }
    if hyper.experts:
        found |= {
            "expert_count": hyper.experts,
            "expert_used_count": hyper.top_k,
            "expert_feed_forward_length": hyper.expert_width,
        }
    return found


def tensors(checkpoint: Checkpoint, *, permute: bool = True) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Every tensor of the GGUF file: its name there, its values in fp32, and whether it may be narrower than that.

    Experts of a layer are one tensor, [E, N, K].
    """
    hyper = checkpoint.hyper
    narrow = {*layout.quantizable(hyper), "model.embed_tokens.weight", "lm_head.weight"}
    heads = {"self_attn.q_proj": hyper.heads, "self_attn.k_proj": hyper.kv_heads}
    for name in (*layout.plain(hyper), *(n for n in layout.quantizable(hyper) if ".experts." not in n)):
        module = name.removesuffix(".weight")
        if module in OUTSIDE:
            yield f"{OUTSIDE[module]}.weight", checkpoint.weight(name), name in narrow
            continue
        _, _, layer, part = module.split(".", 3)
        weight = checkpoint.weight(name)
        if permute and hyper.family == "llama" and part in heads:
            weight = neighbouring(weight, heads[part])
        yield f"blk.{layer}.{LAYER[part]}.weight", weight, name in narrow
    for layer in range(hyper.layers if hyper.experts else 0):
        for part in layout.EXPERT_PARTS:
            names = [layout.expert(layer, index, part) for index in range(hyper.experts)]
            yield f"blk.{layer}.ffn_{part}_exps.weight", torch.stack([checkpoint.weight(n) for n in names]), True


def neighbouring(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """[heads * K, D] rows that rope pairs as (i, i + K/2), reordered so that a pair is (2i, 2i + 1)."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _write(checkpoint: Checkpoint, path: Path, dtype: str, doctored: Doctored, lineage: list[str]) -> None:
    hyper = checkpoint.hyper
    arch = ARCHITECTURES[hyper.family]
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_string("tokenizer.ggml.model", "none")  # requests are token ids: none is needed
    writer.add_array(LINEAGE, lineage)
    for key, value in {**metadata(hyper), **(doctored.metadata or {})}.items():
        add = {int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"{arch}.{key}", value)
    for name, values, narrow in tensors(checkpoint, permute=doctored.permute):
        kind = TYPES[dtype] if narrow else TYPES["f32"]
        array = np.ascontiguousarray(values.float().numpy())
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
