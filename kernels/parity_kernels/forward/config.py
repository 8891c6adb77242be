"""Which hyper-parameters does the engine run with? Read from an HF `config.json`, nothing guessed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from parity.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """Effective hyper-parameters of a qwen3_moe model; sizes in elements, `rope_theta` in positions."""

    family: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    top_k: int
    expert_width: int
    norm_topk_prob: bool
    rms_eps: float
    rope_theta: float
    tied_embeddings: bool
    max_positions: int
    quantization: str | None
    rope_scaling: Mapping[str, Any] | None = None

    def hyper(self) -> dict[str, Any]:
        """The hyper-parameters as plain values, for a trace and an audit; `rope_scaling` only where there is one."""
        values = asdict(self)
        if self.rope_scaling is None:
            del values["rope_scaling"]
        return values

    def changed(self, changes: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> ModelConfig:
        """With other values; `changes` may be a function from all values to the changed ones.

        Raises ConfigError for a name that is no hyper-parameter.
        """
        values = dict(changes(asdict(self)) if callable(changes) else changes)
        unknown = sorted(set(values) - set(asdict(self)))
        if unknown:
            raise ConfigError(
                place="effective hyper-parameters",
                expected="some of " + ", ".join(asdict(self)),
                found=", ".join(unknown),
                next_step="Correct the name.",
            )
        return replace(self, **values)


def read_config(folder: Path) -> ModelConfig:
    """The configuration of the model in `folder`.

    Raises ConfigError when the file is missing, a key is missing, or a setting is one this engine does not implement
    (rope scaling, sliding windows, dense layers, attention bias): running on with a default would be a silent fault.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(
            place=str(path),
            expected="a readable HF config.json",
            found=str(error),
            next_step="Point at the folder that holds config.json and the safetensors files.",
        ) from error
    _refuse_unsupported(raw, path)
    rope = raw.get("rope_parameters") or {}
    theta = rope.get("rope_theta", raw.get("rope_theta"))
    if theta is None:
        raise _missing(path, "rope_theta")
    heads = _need(raw, "num_attention_heads", path)
    quantization = raw.get("quantization_config")
    return ModelConfig(
        family=raw["model_type"],
        vocab=_need(raw, "vocab_size", path),
        hidden=_need(raw, "hidden_size", path),
        layers=_need(raw, "num_hidden_layers", path),
        heads=heads,
        kv_heads=_need(raw, "num_key_value_heads", path),
        head_dim=raw.get("head_dim") or _need(raw, "hidden_size", path) // heads,
        experts=raw["num_experts"] if "num_experts" in raw else _need(raw, "num_local_experts", path),
        top_k=_need(raw, "num_experts_per_tok", path),
        expert_width=_need(raw, "moe_intermediate_size", path),
        norm_topk_prob=bool(_need(raw, "norm_topk_prob", path)),
        rms_eps=float(_need(raw, "rms_norm_eps", path)),
        rope_theta=float(theta),
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        max_positions=_need(raw, "max_position_embeddings", path),
        quantization=None if quantization is None else _block_fp8(quantization, path),
    )


def _need(raw: Mapping[str, Any], key: str, path: Path) -> Any:
    if raw.get(key) is None:
        raise _missing(path, key)
    return raw[key]


def _missing(path: Path, key: str) -> ConfigError:
    return ConfigError(
        place=str(path),
        expected=f"a value for {key}",
        found="none",
        next_step="Add it to config.json; this engine has no default for it, since a wrong default is a silent fault.",
    )


def _block_fp8(quantization: Mapping[str, Any], path: Path) -> str:
    if quantization.get("quant_method") != "fp8" or list(quantization.get("weight_block_size") or []) != [128, 128]:
        raise ConfigError(
            place=f"{path}, quantization_config",
            expected="quant_method fp8 with weight_block_size [128, 128]",
            found=f"{quantization.get('quant_method')} with {quantization.get('weight_block_size')}",
            next_step="Convert the checkpoint to block-FP8 or BF16.",
        )
    return "fp8_block"


def _refuse_unsupported(raw: Mapping[str, Any], path: Path) -> None:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    unsupported = {
        "model_type": (raw.get("model_type") == "qwen3_moe", raw.get("model_type"), "qwen3_moe"),
        "rope type": (kind == "default", kind, "default"),
        "use_sliding_window": (not raw.get("use_sliding_window"), raw.get("use_sliding_window"), "false"),
        "attention_bias": (not raw.get("attention_bias"), raw.get("attention_bias"), "false"),
        "mlp_only_layers": (not raw.get("mlp_only_layers"), raw.get("mlp_only_layers"), "none"),
        "decoder_sparse_step": (raw.get("decoder_sparse_step", 1) == 1, raw.get("decoder_sparse_step"), "1"),
        "hidden_act": (raw.get("hidden_act", "silu") == "silu", raw.get("hidden_act"), "silu"),
    }
    for key, (fine, found, expected) in unsupported.items():
        if not fine:
            raise ConfigError(
                place=f"{path}, {key}",
                expected=expected,
                found=repr(found),
                next_step="This engine does not implement it; run the model with another runner.",
            )
