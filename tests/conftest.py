"""A random qwen3_moe model of unkind sizes, as BF16 and block-FP8 folders, with a router that overloads one expert."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Decides interpreted or compiled before anything imports triton.
import parity_kernels.backend  # noqa: F401  isort: skip

import pytest
import torch
from safetensors.torch import save_file

from parity.runner import Request

collect_ignore = ["example_project"]  # a project of its own, run from the built wheel by tests/pytest_plugin

SIZES = {
    "vocab_size": 80, "hidden_size": 144, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 136,
}  # fmt: skip
CONFIG = {
    **SIZES, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_act": "silu",
    "intermediate_size": 136, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "tie_word_embeddings": True, "attention_bias": False, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "norm_topk_prob": True, "use_sliding_window": False, "dtype": "bfloat16",
}  # fmt: skip
FP8_CONFIG = {
    "quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3",
    "modules_to_not_convert": ["lm_head"],
}  # fmt: skip


def random_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors in HF layout; expert 1 of every layer draws most tokens, as trained routers do."""
    random = torch.Generator().manual_seed(seed)
    hidden, width = SIZES["hidden_size"], SIZES["moe_intermediate_size"]
    q = SIZES["num_attention_heads"] * SIZES["head_dim"]
    kv = SIZES["num_key_value_heads"] * SIZES["head_dim"]

    def normal(*shape: int, scale: float = 0.08, mean: float = 0.0) -> torch.Tensor:
        return (torch.randn(shape, generator=random) * scale + mean).to(torch.bfloat16)

    tensors = {"model.embed_tokens.weight": normal(SIZES["vocab_size"], hidden, scale=1.0, mean=0.3)}
    for layer in range(SIZES["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = normal(rows, columns)
        for name in ("q_norm", "k_norm"):
            tensors[f"{prefix}self_attn.{name}.weight"] = normal(SIZES["head_dim"], scale=0.2, mean=1.0)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = normal(hidden, scale=0.2, mean=1.0)
        router = normal(SIZES["num_experts"], hidden)
        router[1] += 0.12
        tensors[f"{prefix}mlp.gate.weight"] = router
        for expert in range(SIZES["num_experts"]):
            for name, rows, columns in (("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)):
                tensors[f"{prefix}mlp.experts.{expert}.{name}_proj.weight"] = normal(rows, columns)
    tensors["model.norm.weight"] = normal(hidden, scale=0.2, mean=1.0)
    return tensors


def block_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """E4M3 values and one fp32 scale a 128x128 block, edge blocks partial: amax of each block maps to 448."""
    rows, columns = weight.shape
    scale = torch.empty(-(-rows // 128), -(-columns // 128))
    values = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            block = weight[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128].float()
            scale[i, j] = block.abs().max() / 448
            values[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128] = (block / scale[i, j]).to(torch.float8_e4m3fn)
    return values, scale


Writer = Callable[..., Path]


@pytest.fixture
def write_model(tmp_path: Path) -> Writer:
    """write_model(fp8=False, tensors=None, **config) writes a model folder of its own and returns it."""

    def write(*, fp8: bool = False, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
        return write_folder(tmp_path / "model", fp8=fp8, tensors=tensors, **config)

    return write


def write_folder(
    folder: Path, *, fp8: bool = False, tensors: dict[str, torch.Tensor] | None = None, **config: Any
) -> Path:
    folder.mkdir(parents=True)
    tensors = random_tensors() if tensors is None else dict(tensors)
    content = {**CONFIG, **config}
    if fp8:
        content["quantization_config"] = FP8_CONFIG
        for name in [name for name in tensors if "_proj." in name]:
            tensors[name], tensors[name + "_scale_inv"] = block_fp8(tensors[name])
    (folder / "config.json").write_text(json.dumps(content))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def fp8_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("fp8") / "model", fp8=True)


@pytest.fixture(scope="session")
def bf16_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("bf16") / "model")


@pytest.fixture
def prompt() -> Callable[[int, int], Request]:
    """prompt(length, seed) gives a request of random ids."""

    def make(length: int, seed: int = 0) -> Request:
        ids = torch.randint(0, SIZES["vocab_size"], (length,), generator=torch.Generator().manual_seed(seed))
        return Request(f"prompt-{seed}", tuple(ids.tolist()))

    return make
