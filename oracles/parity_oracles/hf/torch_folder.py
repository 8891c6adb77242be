"""Which module is a Hugging Face folder, and how is it compiled? `torch:MODEL_FOLDER` of llama, qwen3 or qwen3_moe."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
import transformers

from parity.errors import UsageError
from parity.preview import RunnerPreview
from parity.records import Recipe
from parity.trace import lineage_of
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.hf import dense, qwen3_moe
from parity_oracles.hf.binding import build_model
from parity_oracles.hf.runner import DTYPES
from parity_oracles.hf.seams import ATTENTION, EXPERTS, ShownDynamicCache, ShownStaticCache, rewrite_routing
from parity_oracles.preview import preview
from parity_oracles.stagemap import load_map, read_map
from parity_oracles.torch_module.compiling import Compilation
from parity_oracles.torch_module.model import TorchModel
from parity_oracles.torch_module.runner import TorchRunner

FAMILIES = {"llama": dense, "qwen3": dense, "qwen3_moe": qwen3_moe}


def open_runner(
    model: str,
    *,
    dtype: str = "float32",
    compile: str = "none",
    mode: str = "default",
    fullgraph: bool = True,
    dynamic: bool | None = None,
    emulate_precision_casts: bool = True,
    attention: str = "eager",
    device: str = "cpu",
    stage_map: str = "",
) -> TorchRunner:
    """The HF model in folder `model`, its experts as grouped matrix products, eager or compiled.

    dtype: `float32` or `bfloat16`. compile, mode, fullgraph, dynamic, emulate_precision_casts: see
    parity_oracles.torch_module.compiling. attention: `eager` or `sdpa`. device: of torch. stage_map: a file in place of
    the lab's own map. Raises UsageError for other options, ConfigError and CheckpointError for the folder.
    """
    if dtype not in DTYPES or attention not in ATTENTION:
        raise UsageError(
            place="torch runner",
            expected=f"dtype one of {', '.join(DTYPES)}, attention one of {', '.join(ATTENTION)}",
            found=f"dtype {dtype!r}, attention {attention!r}",
            next_step="Correct the option.",
        )
    compilation = Compilation(compile, mode, fullgraph, dynamic, emulate_precision_casts)
    runner = TorchRunner(
        torch_model(Path(model), dtype=dtype, attention=attention, device=device, stage_map=stage_map), compilation
    )
    runner.knobs = _knobs(dtype, attention, compile, mode, graphs=device.startswith("cuda"))
    runner.knob_needs = {"mode": ("compile", "inductor")}
    return runner


def _knobs(dtype: str, attention: str, compile: str, mode: str, *, graphs: bool) -> dict[str, tuple[str, ...]]:
    """How else this folder can be opened: graph or none, recipe, attention, and CUDA graphs where there are any."""
    known = {
        "attention": (attention, tuple(ATTENTION)),
        "dtype": (dtype, tuple(DTYPES)),
        "compile": (compile, ("none", "inductor")),
        "mode": (mode, ("default", "reduce-overhead") if graphs and compile == "inductor" else ()),
    }
    found = {name: tuple(one for one in values if one != now) for name, (now, values) in known.items()}
    return {name: values for name, values in found.items() if values}


def preview_runner(model: str, *, dtype: str = "float32", attention: str = "eager", **options: Any) -> RunnerPreview:
    """What `open_runner` would give, from config.json and the headers; options change nothing that is shown here."""
    known = set(inspect.signature(open_runner).parameters)
    if dtype not in DTYPES or not set(options) <= known:
        raise UsageError(
            place="torch runner",
            expected=f"dtype one of {', '.join(DTYPES)}, options among {', '.join(sorted(known - {'model'}))}",
            found=f"dtype {dtype!r}, {', '.join(options) or 'no options'}",
            next_step="Correct the option.",
        )
    dtypes = {"": dtype, "moe.topk_ids": "int32"}
    return preview(read_checkpoint(Path(model)), name="torch", recipe=_recipe(dtype, attention), dtypes=dtypes,
                   held=dtype)  # fmt: skip


def torch_model(
    folder: Path, *, dtype: str = "float32", attention: str = "eager", device: str = "cpu", stage_map: str = ""
) -> TorchModel:
    """A model folder as a module with its feed, cache and stage map."""
    checkpoint = read_checkpoint(folder)
    family = FAMILIES[checkpoint.hyper.family]
    module: Any = build_model(
        checkpoint, DTYPES[dtype][0], parameters=family.parameters, effective_hyper=family.effective_hyper
    )
    hyper = family.effective_hyper(module, checkpoint)
    module.set_attn_implementation(ATTENTION[attention])
    rewrites = {}
    if hyper.experts:
        module.set_experts_implementation(EXPERTS)
        rewrites = {
            f"model.layers.{n}.mlp.gate": rewrite_routing(layer.mlp.gate) for n, layer in enumerate(module.model.layers)
        }
    module.to(device)
    experts = "grouped_mm" if hyper.experts else "none"
    settings = {"attn_implementation": attention, "experts_implementation": experts, "hf": transformers.__version__}
    short = DTYPES[dtype][1]
    source = " dequantized from e4m3 128x128" if checkpoint.hyper.quantization else ""
    return TorchModel(
        module=module,
        family=hyper.family,
        hyper=hyper.implied(),
        stage_map=read_map(Path(stage_map)) if stage_map else load_map("torch", hyper.family),
        feed=feed_hf,
        new_cache=_caches(module),
        rewrites=rewrites,
        lineage=lineage_of(folder),
        decoder=checkpoint.decoder,
        name=str(folder),
        settings=settings,
        recipe=Recipe(_recipe(dtype, attention), short + source, short, short, "fp32", short, short),
    )


def _recipe(dtype: str, attention: str) -> str:
    """The precision recipe, by its name in parity_oracles/recipes: in 16 bits PyTorch rounds after every operation."""
    if dtype == "float32":
        return "fp32"
    return "bf16_torch" if attention == "eager" else "bf16_torch_sdpa"


def feed_hf(module: Any, ids: torch.Tensor, positions: torch.Tensor, cache: Any, keep: int) -> torch.Tensor:
    """Logits of HF's forward pass; see parity_oracles.torch_module.model."""
    out = module(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=keep)
    return out.logits


def _caches(module: Any) -> Any:
    config = module.config
    attentions = [layer.self_attn for layer in module.model.layers]

    def new_cache(tokens: int) -> Any:
        if not tokens:
            cache: Any = ShownDynamicCache(config=config)
        else:
            cache = ShownStaticCache(config=config, max_cache_len=tokens)
            weight = attentions[0].k_proj.weight
            # Before anything is compiled: inside a graph the addresses would not be static.
            cache.early_initialization(
                batch_size=1, num_heads=config.num_key_value_heads, head_dim=attentions[0].head_dim,
                dtype=weight.dtype, device=weight.device,
            )  # fmt: skip
        cache.attentions = attentions
        return cache

    return new_cache
