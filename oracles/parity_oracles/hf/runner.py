"""What does HF compute? A Hugging Face model as an oracle: every stage shown, any of them replaceable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from parity.errors import UsageError
from parity.preview import RunnerPreview
from parity.records import Recipe, Rows
from parity.sampling import Sampling
from parity_oracles.checkpoint import Checkpoint, read_checkpoint
from parity_oracles.hf import dense, qwen3_moe
from parity_oracles.hf import experts as _experts  # noqa: F401  (registers the tapped expert loop)
from parity_oracles.hf.attention import TappedCache
from parity_oracles.hf.binding import build_model
from parity_oracles.hf.sampling import choose
from parity_oracles.hf.taps import Taps
from parity_oracles.oracle import Oracle
from parity_oracles.preview import preview
from parity_oracles.recipes.runner import RecipeRunner

DTYPES = {"float32": (torch.float32, "fp32"), "bfloat16": (torch.bfloat16, "bf16")}
FAMILIES = {"llama": dense, "qwen3": dense, "qwen3_moe": qwen3_moe}


class HfRunner(Oracle):
    """An HF causal language model on the CPU, eager attention and experts, weights from our own dequantizers.

    Requests are run one by one, without padding; `Schedule(decode=n)` feeds the last n ids through HF's KV cache.
    Ids of `moe.topk_ids` that are exact ties in the softmax come as torch.topk gives them.
    """

    name = "hf"
    can = frozenset({"forward", "generate", "sample", "graft", "replay"})

    def __init__(self, checkpoint: Checkpoint, *, dtype: str = "float32") -> None:
        torch_dtype, short = DTYPES[dtype]
        family = FAMILIES[checkpoint.hyper.family]
        self.model = build_model(
            checkpoint, torch_dtype, parameters=family.parameters, effective_hyper=family.effective_hyper
        )
        hyper = family.effective_hyper(self.model, checkpoint)
        source = " dequantized from e4m3 128x128" if checkpoint.hyper.quantization else ""
        recipe = Recipe(short, short + source, short, short, "fp32", short, short)
        super().__init__(checkpoint, recipe, hyper)
        self._taps = Taps(self.model, family.place_taps, head_dim=hyper.head_dim)

    def flags(self) -> dict[str, Any]:
        return {"attn_implementation": "eager", "experts_implementation": "eager", "hf": transformers.__version__}

    def tapped(self) -> AbstractContextManager[Any]:
        return self._taps.installed()

    def new_cache(self) -> Any:
        config = self.model.config
        return TappedCache(self._taps, config) if self._taps.active else transformers.DynamicCache(config=config)

    def step(
        self, ids: torch.Tensor, start: int, cache: Any, probe: Any, rows: Rows, *, last_only: bool
    ) -> torch.Tensor:
        self._taps.probe, self._taps.rows = probe, rows
        out = self.model(
            input_ids=ids[None],
            position_ids=torch.arange(start, start + len(ids))[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1 if last_only else 0,
        )
        return out.logits[0]

    def choose(self, logits: torch.Tensor, ids: Sequence[int], *, prompt: int, sampling: Sampling) -> int:
        """The next token by HF's own processors."""
        return choose(logits, ids, prompt=prompt, sampling=sampling)

    def replay(
        self, stage: str, layer: int | None, inputs: Mapping[str, torch.Tensor], *, positions: torch.Tensor, recipe: str
    ) -> torch.Tensor:
        """Compute one stage alone, by the recipe's stage functions on the same checkpoint; a test holds that in fp32
        they agree with HF's own stages. See parity.runner.Replayer."""
        return self._replayer.replay(stage, layer, inputs, positions=positions, recipe=recipe)

    def weight_of(self, stage: str, layer: int | None) -> torch.Tensor | None:
        """The weight of a linear stage, see RecipeRunner.weight_of."""
        return self._replayer.weight_of(stage, layer)

    @cached_property
    def _replayer(self) -> RecipeRunner:
        return RecipeRunner(self.checkpoint)


def open_runner(model: str, *, dtype: str = "float32", quantized: str = "dequantize") -> HfRunner:
    """The HF oracle on the model folder `model`.

    dtype: `float32` or `bfloat16`, for weights and activations alike. quantized: `dequantize`, the only way a quantized
    checkpoint is run here: its weights through our dequantizer, rounded once to `dtype`.
    Raises UsageError for other options, ConfigError and CheckpointError for the folder.
    """
    _check_options(dtype, quantized)
    return HfRunner(read_checkpoint(Path(model)), dtype=dtype)


def _check_options(dtype: str, quantized: str) -> None:
    if dtype not in DTYPES or quantized != "dequantize":
        raise UsageError(
            place="HF runner",
            expected=f"dtype one of {', '.join(DTYPES)}, quantized 'dequantize'",
            found=f"dtype {dtype!r}, quantized {quantized!r}",
            next_step="For a precision recipe's own arithmetic use the runner `recipe`.",
        )


def preview_runner(model: str, *, dtype: str = "float32", quantized: str = "dequantize") -> RunnerPreview:
    """What `open_runner` would give, from config.json and the headers; the folder is checked as it is there."""
    _check_options(dtype, quantized)
    checkpoint = read_checkpoint(Path(model))
    dtypes = {"": dtype, "moe.topk_ids": "int32"}
    return preview(checkpoint, name="hf", recipe=DTYPES[dtype][1], dtypes=dtypes, held=dtype)
