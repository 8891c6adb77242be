"""A small random qwen3_moe folder with unkind sizes, in BF16 and in block-FP8, for the oracles' tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from parity.records import Capture
from parity.runner import Request
from parity.stages import QWEN3_MOE
from parity.trace import Trace
from parity_oracles.checkpoint import layout, read_hyper
from parity_oracles.recipes.formats import quantize_weight

# 160 and 136 leave edge blocks of 32 and 8 in a 128-block grid of 2 x 2, so that a transposed or inferred grid shows.
SIZES = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "vocab_size": 211,
    "hidden_size": 160,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 136,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
}
FP8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
    "activation_scheme": "dynamic",
    "modules_to_not_convert": ["lm_head"],
}


def write_model(folder: Path, *, quantized: bool = False, shards: int = 1, **changes: Any) -> Path:
    """Write a random model folder; `changes` go into config.json before the weights are drawn."""
    config = {**SIZES, **changes}
    hyper = read_hyper(config)
    generator = torch.Generator().manual_seed(20)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in layout.plain(hyper).items():
        drawn = torch.randn(shape, generator=generator)
        tensors[name] = (1 + 0.1 * drawn if len(shape) == 1 else drawn * (0.5 if "gate" in name else 0.1)).bfloat16()
    for name, shape in layout.quantizable(hyper).items():
        weight = (torch.randn(shape, generator=generator) * shape[1] ** -0.5 * 2).bfloat16()
        # Blocks of different magnitude, so that a scale at the wrong block matters.
        weight[:128] *= 4
        weight[:, 128:] /= 8
        if quantized:
            tensors[name], tensors[name + "_scale_inv"] = quantize_weight(weight)
        else:
            tensors[name] = weight
    if quantized:
        config["quantization_config"] = FP8
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_tensors(folder, tensors, shards)
    return folder


def save_tensors(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    where = {name: f"model-{number % shards + 1:05d}-of-{shards:05d}.safetensors" for number, name in enumerate(names)}
    for file in set(where.values()):
        part = {name: tensors[name] for name in names if where[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(**options: Any) -> Path:
        return write_model(tmp_path_factory.mktemp("model"), **options)

    return make


@pytest.fixture(scope="session")
def bf16_folder(make_model: Callable[..., Path]) -> Path:
    return make_model()


@pytest.fixture(scope="session")
def fp8_folder(make_model: Callable[..., Path]) -> Path:
    return make_model(quantized=True, tie_word_embeddings=False)


@pytest.fixture(scope="session")
def prompt() -> Request:
    ids = torch.randint(0, SIZES["vocab_size"], (45,), generator=torch.Generator().manual_seed(3))
    return Request("prompt", tuple(ids.tolist()))


def in_order(trace: Trace, capture: Capture) -> torch.Tensor:
    """A capture of one request with rows sorted: [T, ...], or [T, S, ...] in (token, slot) order."""
    x, rows = trace.tensor(capture), capture.rows
    if rows.slot is None:
        return x[torch.from_numpy(np.argsort(rows.position, kind="stable"))]
    x = x[torch.from_numpy(np.lexsort((rows.slot, rows.position)))]
    return x.view(-1, int(rows.slot.max()) + 1, x.shape[-1])


@pytest.fixture(scope="session")
def stages_of() -> Callable[..., dict[tuple[int | None, str], torch.Tensor]]:
    """Every stage of a trace's prefill by (layer, stage), rows in order."""

    def read(trace: Trace, phase: str = "prefill") -> dict[tuple[int | None, str], torch.Tensor]:
        return {(c.layer, c.stage): in_order(trace, c) for c in trace.captures if c.phase == phase}

    return read


@pytest.fixture(scope="session")
def replayed() -> Callable[..., torch.Tensor]:
    """Replay one stage of a traced prefill from the trace's own inputs."""

    def replay(
        runner: Any, seen: dict[tuple[int | None, str], torch.Tensor], at: int | None, name: str, recipe: str, ids: Any
    ) -> torch.Tensor:
        node = QWEN3_MOE.stage(name)
        inputs = {i: seen[QWEN3_MOE.resolve(at, i, layers=2)] for i in node.inputs} or {"ids": torch.tensor(ids)}
        return runner.replay(name, at, inputs, positions=torch.arange(len(ids)), recipe=recipe)

    return replay
