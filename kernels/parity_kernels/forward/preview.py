"""What would the engine be on a model folder: its stages' dtypes and sizes, its memory, how fast it computes?"""

from __future__ import annotations

from math import prod

from parity.preview import RunnerPreview
from parity.stages import QWEN3_MOE
from parity_kernels.forward.config import ModelConfig
from parity_kernels.forward.files import Shards
from parity_kernels.forward.inventory import SCALE

WIDE = {
    "moe.router_logits": "float32",
    "moe.topk_ids": "int32",
    "moe.topk_weights": "float32",
    "logits": "float32",
}
"""Stages whose tensors are not BF16."""

INTERPRETED_FLOPS, INTERPRETED_LAYER_SECONDS = 6e9, 0.1
"""Triton's interpreter on one core: operations a second, and seconds that the launches of a layer take whatever their
rows. From 96 and 768 ids and 20 decode steps through fixtures/models/moe-tiny (6.5e9, 0.07) and moe-tiny-fp8 (5.5e9,
0.09), torch 2.13, triton 3.9."""

LAUNCH_BYTES = 150
"""A launch record (grid, tiles, arguments) as JSON."""


def preview(config: ModelConfig, shards: Shards, *, recipe: str, device: str, interpreted: bool) -> RunnerPreview:
    """The engine on a checked folder, `recipe` as it would run."""
    weights = {name: stored for name, stored in shards.stored.items() if not name.endswith(SCALE)}
    sizes = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
    if recipe == "fp8_block":
        # Scales are kept in fp32 whatever they are stored in.
        held = sum(
            prod(stored.shape) * (4 if name.endswith(SCALE) else sizes[stored.dtype])
            for name, stored in shards.stored.items()
        )
    else:
        held = sum(2 * prod(stored.shape) for stored in weights.values())
    stages = tuple(dict.fromkeys(stage.name for _, stage in QWEN3_MOE.sites(1)))
    return RunnerPreview(
        name="triton",
        family=config.family,
        recipe=recipe,
        layers=config.layers,
        axes={
            "D": config.hidden, "H": config.heads, "G": config.kv_heads, "K": config.head_dim, "E": config.experts,
            "S": config.top_k, "F": config.expert_width, "V": config.vocab,
        },
        stages=stages,
        dtypes={stage: WIDE.get(stage, "bfloat16") for stage in stages},
        vocab=config.vocab,
        max_positions=config.max_positions,
        parameters=sum(prod(stored.shape) for stored in weights.values()),
        weight_bytes=held,
        device=device,
        flops=INTERPRETED_FLOPS if interpreted else None,
        layer_seconds=INTERPRETED_LAYER_SECONDS if interpreted else 0.0,
        expert_line_bytes=LAUNCH_BYTES,
    )  # fmt: skip
