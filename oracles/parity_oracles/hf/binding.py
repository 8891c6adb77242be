"""Is every parameter of an HF model bound exactly once? Builds the model and gives it our dequantized weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from parity.errors import CheckpointError, ConfigError
from parity_oracles.checkpoint import Checkpoint, Hyper

NOT_FOR_HF = ("quantization_config", "torch_dtype", "dtype", "architectures", "transformers_version")
"""Keys of config.json that say how weights are stored; they are ours by then. HF must not dequantize on its own: it
infers block sizes from the scale grid, and is silently wrong where a dimension is not a multiple of 128."""


def build_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    *,
    parameters: Callable[[Checkpoint, torch.dtype], Mapping[str, torch.Tensor]],
    effective_hyper: Callable[[Any, Checkpoint], Hyper],
) -> Any:
    """The HF model of `checkpoint` on the CPU in `dtype`, eager attention and eager experts, in evaluation mode.

    Raises CheckpointError when a parameter is bound other than once, in another shape, or a stored tensor is unused;
    ConfigError when the model, once built, computes with other hyper-parameters than config.json states.
    """
    raw = {key: value for key, value in checkpoint.config.items() if key not in NOT_FOR_HF}
    try:
        config = AutoConfig.for_model(raw.pop("model_type"), **raw)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(
                config,
                dtype=dtype,
                attn_implementation="eager",
                experts_implementation="eager",
                trust_remote_code=False,
            )
    except Exception as error:  # transformers checks the values that we do not read, each with an exception of its own
        raise ConfigError(
            place=f"{checkpoint.folder}/config.json",
            expected="values that transformers builds a model from",
            found=f"{type(error).__name__}: {error}"[:400],
            next_step="Correct the value it names; this one is read by transformers alone.",
        ) from error
    bind(model, parameters(checkpoint, dtype), place=str(checkpoint.folder))
    checkpoint.finish()
    # Buffers are computed and not stored: make those again, off meta and in fp32, as from_pretrained leaves them.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    model.eval()
    _check_hyper(effective_hyper(model, checkpoint), checkpoint.hyper)
    return model


def bind(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], *, place: str) -> None:
    """Give each parameter its tensor, without a copy; raises CheckpointError unless it is each exactly once."""
    wanted = dict(model.named_parameters(remove_duplicate=False))
    missing, extra = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    shapes = [name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape]
    if missing or extra or shapes:
        raise CheckpointError(
            place=place,
            expected=f"each of the {len(wanted)} parameters of {type(model).__name__} bound once, in its shape",
            found=f"not bound: {missing or 'none'}; no such parameter: {extra or 'none'}; "
            f"other shape: {shapes or 'none'}",
            next_step="Compare transformers' module tree with the family's file in parity_oracles/hf; versions differ.",
        )
    model.load_state_dict(dict(weights), strict=True, assign=True)
    model.tie_weights()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.data_ptr() != weights[name].data_ptr() or parameter.dtype != weights[name].dtype:
            raise CheckpointError(
                place=f"{place}, {name}",
                expected="the tensor it was given",
                found="another after loading",
                next_step="transformers replaced it; check tie_word_embeddings and the loading code of this version.",
            )


def _check_hyper(effective: Hyper, stated: Hyper) -> None:
    found, expected = effective.as_dict(), stated.as_dict()
    wrong = [key for key in expected if found[key] != expected[key]]
    if wrong:
        raise ConfigError(
            place="HF model built from config.json",
            expected=", ".join(f"{key}={expected[key]}" for key in wrong),
            found=", ".join(f"{key}={found[key]}" for key in wrong),
            next_step="transformers read the file otherwise than we do; correct the file or the reader.",
        )
