"""Do two decoder layers of a real size agree with FP32, stage by stage, on this machine's GPU?

    PYTHONPATH=.:kernels:oracles python benchmarks/real_shapes.py --out results.json

Shape of Qwen3-30B-A3B (hidden 2048, 128 experts top-8 of width 768, 32 query and 4 key/value heads of 128), two layers,
random weights, a small vocabulary. Each stage is replayed on the engine's own inputs in FP32 and in the recipe's
emulation; `ratio` is the engine's distance to FP32 over the emulation's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Decides interpreted or compiled before anything imports triton.
import parity_kernels.backend  # noqa: F401  isort: skip

import torch
from safetensors.torch import save_file

from parity.ladder import Replay
from parity.metrics import pair_moments, rel_l2
from parity.records import as_json, site_name
from parity.runner import CapturePlan, Request
from parity.stages import term
from parity_kernels.forward.runner import open_runner as open_engine
from parity_oracles.recipes.runner import open_runner as open_recipe

SIZES = {
    "vocab_size": 1024, "hidden_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}  # fmt: skip
CONFIG = {
    **SIZES, "model_type": "qwen3_moe", "hidden_act": "silu", "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "tie_word_embeddings": True, "attention_bias": False, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "norm_topk_prob": True, "use_sliding_window": False, "intermediate_size": 768,
}  # fmt: skip
QUANTIZATION = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}


def write_random_model(folder: Path, sizes: dict[str, int] | None = None, *, fp8: bool = True) -> Path:
    """Write a random model of `CONFIG`, its sizes replaced by `sizes` (all multiples of 128), block-FP8 or BF16."""
    config = {**CONFIG, **(sizes or {})}
    random = torch.Generator().manual_seed(0)
    hidden, width, heads = config["hidden_size"], config["moe_intermediate_size"], config["num_attention_heads"]
    q, kv = heads * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    tensors: dict[str, torch.Tensor] = {}

    def normal(*shape: int, scale: float, mean: float = 0.0) -> torch.Tensor:
        return (torch.randn(shape, generator=random) * scale + mean).to(torch.bfloat16)

    def matrix(name: str, rows: int, columns: int) -> None:
        weight = normal(rows, columns, scale=columns**-0.5)
        if not fp8:
            tensors[name] = weight
            return
        blocks = weight.float().view(rows // 128, 128, columns // 128, 128)
        scale = blocks.abs().amax((1, 3), keepdim=True) / 448
        tensors[name] = (blocks / scale).to(torch.float8_e4m3fn).view(rows, columns)
        tensors[f"{name}_scale_inv"] = scale.view(rows // 128, columns // 128)

    tensors["model.embed_tokens.weight"] = normal(config["vocab_size"], hidden, scale=1.0)
    tensors["model.norm.weight"] = normal(hidden, scale=0.1, mean=1.0)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
            matrix(f"{prefix}self_attn.{name}_proj.weight", rows, columns)
        for name in ("q_norm", "k_norm"):
            tensors[f"{prefix}self_attn.{name}.weight"] = normal(config["head_dim"], scale=0.1, mean=1.0)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = normal(hidden, scale=0.1, mean=1.0)
        tensors[f"{prefix}mlp.gate.weight"] = normal(config["num_experts"], hidden, scale=hidden**-0.5)
        for expert in range(config["num_experts"]):
            for name, rows, columns in (("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)):
                matrix(f"{prefix}mlp.experts.{expert}.{name}_proj.weight", rows, columns)
    folder.mkdir(parents=True)
    content = {**config, **({"quantization_config": QUANTIZATION} if fp8 else {})}
    (folder / "config.json").write_text(json.dumps(content))
    save_file(tensors, folder / "model.safetensors")
    return folder


def measure(folder: Path, *, tokens: int) -> dict[str, Any]:
    """Run the engine on `folder` and replay every stage: errors by site, seconds of a warm forward pass."""
    engine = open_engine(str(folder))
    ids = torch.randint(0, CONFIG["vocab_size"], (tokens,), generator=torch.Generator().manual_seed(1))
    requests = [Request("random", tuple(ids.tolist()))]
    trace = engine.forward(requests, capture=CapturePlan())
    engine.logits(requests)  # kernels without probe outputs are compiled here
    start = time.perf_counter()
    engine.logits(requests)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    oracle = open_recipe(str(folder))
    recipe = oracle.describe().recipe.name
    exact, emulated = Replay(trace, oracle), Replay(trace, oracle, recipe=recipe)
    sites = []
    for site in exact.sites():
        assert site.sut is not None
        assert site.oracle is not None
        if term(site.stage).values == "ids":
            same = (site.oracle.sort(-1).values == site.sut.tensor.sort(-1).values).all(-1).float().mean()
            sites.append({"site": site_name(site.layer, site.stage), "same_experts": float(same)})
            continue
        other = emulated.site(site.layer, site.stage).oracle
        assert other is not None
        error, noise = _distance(site.oracle, site.sut.tensor), _distance(site.oracle, other)
        sites.append({
            "site": site_name(site.layer, site.stage),
            "rel_l2": error,
            "rel_l2_of_emulation": noise,
            "ratio": error / noise if noise else None,
            "distance_to_emulation": _distance(other, site.sut.tensor),
        })  # fmt: skip
    return {
        "recipe": recipe,
        "tokens": tokens,
        "sizes": SIZES,
        "seconds_of_a_warm_forward": seconds,
        "environment": as_json(asdict(engine.describe().environment)),
        "sites": sites,
    }


def _distance(oracle: torch.Tensor, sut: torch.Tensor) -> float:
    moments = pair_moments(oracle=oracle.flatten(0, -2), sut=sut.flatten(0, -2))
    return float(rel_l2(moments.total(axis=0).total(axis=0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1000)
    asked = parser.parse_args()
    results = []
    for fp8 in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(write_random_model(Path(folder) / "model", fp8=fp8), tokens=asked.tokens))
        worst = max((s for s in results[-1]["sites"] if s.get("ratio")), key=lambda s: s["ratio"])
        print(f"{results[-1]['recipe']}: worst ratio {worst['ratio']:.3f} at {worst['site']}")
    asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
