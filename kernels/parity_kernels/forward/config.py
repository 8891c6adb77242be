"""Which hyper-parameters does the engine run with? Read from an HF `config.json`, nothing guessed, nothing believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from parity.errors import ConfigError

FP32_MAX = 3.4028234663852886e38
LARGEST = 2**31 - 1
"""Largest size of one axis: kernels index rows and columns with 32 bits."""


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

    Raises ConfigError when the file is missing or no JSON object, a key is missing or of another type than it should
    be, a value is absurd or contradicts another one, or a setting is one this engine does not implement (rope scaling,
    sliding windows, dense layers, attention bias, code of the checkpoint's own): running on with a default would be a
    silent fault. Code that a configuration names (`auto_map`) is never executed.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            place=str(path),
            expected="a readable HF config.json",
            found="no such file" if isinstance(error, FileNotFoundError) else str(error),
            next_step="Point at the folder that holds config.json and the safetensors files.",
        ) from error
    if not isinstance(raw, dict):
        raise ConfigError(
            place=str(path), expected="a JSON object", found=type(raw).__name__, next_step="Take the model's own file."
        )
    _refuse_unsupported(raw, path)
    values = _Values(raw, path)
    heads, hidden = values.size("num_attention_heads"), values.size("hidden_size")
    config = ModelConfig(
        family=raw["model_type"],
        vocab=values.size("vocab_size"),
        hidden=hidden,
        layers=values.size("num_hidden_layers"),
        heads=heads,
        kv_heads=values.size("num_key_value_heads"),
        head_dim=values.size("head_dim") if raw.get("head_dim") is not None else hidden // heads,
        experts=values.size("num_experts", "num_local_experts"),
        top_k=values.size("num_experts_per_tok"),
        expert_width=values.size("moe_intermediate_size"),
        norm_topk_prob=values.flag("norm_topk_prob"),
        rms_eps=values.number("rms_norm_eps", above=0.0, below=1.0),
        rope_theta=values.rope_theta(),
        tied_embeddings=values.flag("tie_word_embeddings", default=False),
        max_positions=values.size("max_position_embeddings"),
        quantization=_quantization(raw.get("quantization_config"), path),
    )
    _check_relations(config, path)
    return config


def _check_relations(c: ModelConfig, path: Path) -> None:
    widest = max(c.heads * c.head_dim, c.experts * c.expert_width)
    for key, fine, expected, found in (
        ("num_experts_per_tok", c.top_k <= c.experts, f"at most num_experts = {c.experts}", c.top_k),
        ("num_key_value_heads", c.heads % c.kv_heads == 0, f"a divisor of the {c.heads} query heads", c.kv_heads),
        ("head_dim", c.head_dim >= 2 and c.head_dim % 2 == 0, "an even number: rope turns pairs", c.head_dim),
        ("head_dim", widest <= LARGEST, f"heads times head_dim, and experts times width, up to {LARGEST}", widest),
    ):
        if not fine:
            raise _wrong(path, key, expected, str(found))


class _Values:
    """Reads keys of a configuration with their types: JSON's true is no number, and a number in quotes is text."""

    def __init__(self, raw: Mapping[str, Any], path: Path) -> None:
        self.raw = raw
        self.path = path

    def size(self, *keys: str) -> int:
        found = {key: self.raw[key] for key in keys if self.raw.get(key) is not None}
        if not found:
            raise _missing(self.path, keys[0])
        for key, value in found.items():
            if type(value) is not int or not 1 <= value <= LARGEST:
                raise _wrong(self.path, key, f"a whole number from 1 to {LARGEST}", repr(value))
        if len(set(found.values())) > 1:
            raise _wrong(self.path, " and ".join(found), "one value", str(found))
        return next(iter(found.values()))

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        value = self.raw.get(key, default)
        if value is None:
            raise _missing(self.path, key)
        if not isinstance(value, bool):
            raise _wrong(self.path, key, "true or false", repr(value))
        return value

    def number(self, key: str, *, above: float, below: float) -> float:
        if self.raw.get(key) is None:
            raise _missing(self.path, key)
        return _number(self.raw[key], self.path, key, above=above, below=below)

    def rope_theta(self) -> float:
        rope = self.raw.get("rope_parameters") or {}
        found = {
            where: _number(source["rope_theta"], self.path, f"{where}rope_theta", above=1.0, below=FP32_MAX)
            for where, source in (("rope_parameters.", rope), ("", self.raw))
            if source.get("rope_theta") is not None
        }
        if not found:
            raise _missing(self.path, "rope_theta")
        if len(set(found.values())) > 1:
            raise _wrong(self.path, "rope_theta", "one value", str(found))
        return next(iter(found.values()))


def _number(value: Any, path: Path, key: str, *, above: float, below: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not above < value < below:
        limits = f"a number above {above:g} and below {below:g}"
        raise _wrong(path, key, limits, repr(value))
    return float(value)


def _quantization(section: Any, path: Path) -> str | None:
    if section is None:
        return None
    wanted = {
        "quant_method": ("fp8",),
        "weight_block_size": ([128, 128],),
        "fmt": ("e4m3", None),
        "activation_scheme": ("dynamic", None),
    }
    found = {key: section.get(key) for key in wanted} if isinstance(section, Mapping) else section
    if not isinstance(found, dict) or any(found[key] not in allowed for key, allowed in wanted.items()):
        raise ConfigError(
            place=f"{path}, quantization_config",
            expected="quant_method fp8 with weight_block_size [128, 128], fmt e4m3, activation_scheme dynamic",
            found=repr(found)[:300],
            next_step="Convert the checkpoint to block-FP8 or BF16.",
        )
    return "fp8_block"


def _missing(path: Path, key: str) -> ConfigError:
    return ConfigError(
        place=str(path),
        expected=f"a value for {key}",
        found="none",
        next_step="Add it to config.json; this engine has no default for it, since a wrong default is a silent fault.",
    )


def _wrong(path: Path, key: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        place=f"{path}, {key}",
        expected=expected,
        found=found[:300],
        next_step="Correct config.json; it is damaged, or of another model.",
    )


def _refuse_unsupported(raw: Mapping[str, Any], path: Path) -> None:
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(raw.get(key), (Mapping, type(None))):
            raise _wrong(path, key, "an object", repr(raw[key]))
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
        "auto_map": (not raw.get("auto_map"), raw.get("auto_map"), "none: a checkpoint's own code is never executed"),
        "trust_remote_code": (not raw.get("trust_remote_code"), raw.get("trust_remote_code"), "false"),
    }
    for key, (fine, found, expected) in unsupported.items():
        if not fine:
            raise ConfigError(
                place=f"{path}, {key}",
                expected=expected,
                found=repr(found)[:300],
                next_step="This engine does not implement it; run the model with another runner.",
            )
