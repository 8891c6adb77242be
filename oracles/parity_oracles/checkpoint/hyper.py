"""With which hyper-parameters must a qwen3_moe model run? Read from its `config.json`; a missing one is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from parity.errors import ConfigError


@dataclass(frozen=True)
class Hyper:
    """Hyper-parameters of a qwen3_moe model; sizes in elements.

    quantization: `fp8_block` or None.
    """

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

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, for a trace and for an audit."""
        return asdict(self)


REFUSED = {
    "use_sliding_window": (False, None),
    "attention_bias": (False, None),
    "mlp_only_layers": ([], None),
    "decoder_sparse_step": (1, None),
    "hidden_act": ("silu", None),
    "rope_scaling": (None, {}),
}
"""Settings outside the family's stage graph, with the values that mean "absent"."""


def read_hyper(config: Mapping[str, Any], *, place: str = "config.json") -> Hyper:
    """The hyper-parameters in an HF configuration.

    Both spellings of the rope base are read (`rope_parameters.rope_theta`, and `rope_theta` of older files); when both
    are there and differ, that is an error. Raises ConfigError for a missing value, and for a setting that the family's
    stage graph does not describe: an oracle that ran with a default instead would be silently wrong.
    """
    if config.get("model_type") != "qwen3_moe":
        raise _wrong(place, "model_type qwen3_moe", repr(config.get("model_type")))
    for key, allowed in REFUSED.items():
        if key in config and config[key] not in (*allowed, None):
            raise _wrong(f"{place}, {key}", " or ".join(map(repr, allowed)), repr(config[key]))
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise _wrong(f"{place}, rope_parameters", "rope_type 'default'", repr(rope["rope_type"]))
    bases = {float(source["rope_theta"]) for source in (rope, config) if source.get("rope_theta") is not None}
    if len(bases) != 1:
        raise _wrong(f"{place}, rope_theta", "one value", f"{sorted(bases) or 'none'}")
    heads = _value(config, place, "num_attention_heads")
    return Hyper(
        family="qwen3_moe",
        vocab=_value(config, place, "vocab_size"),
        hidden=_value(config, place, "hidden_size"),
        layers=_value(config, place, "num_hidden_layers"),
        heads=heads,
        kv_heads=_value(config, place, "num_key_value_heads"),
        head_dim=config.get("head_dim") or _value(config, place, "hidden_size") // heads,
        experts=_value(config, place, "num_experts", "num_local_experts"),
        top_k=_value(config, place, "num_experts_per_tok"),
        expert_width=_value(config, place, "moe_intermediate_size"),
        norm_topk_prob=bool(_value(config, place, "norm_topk_prob")),
        rms_eps=float(_value(config, place, "rms_norm_eps")),
        rope_theta=bases.pop(),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        max_positions=_value(config, place, "max_position_embeddings"),
        quantization=_quantization(config.get("quantization_config"), place),
    )


def _value(config: Mapping[str, Any], place: str, *keys: str) -> Any:
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    raise _wrong(place, f"a value for {' or '.join(keys)}", "none")


def _quantization(section: Mapping[str, Any] | None, place: str) -> str | None:
    if section is None:
        return None
    found = {key: section.get(key) for key in ("quant_method", "fmt", "weight_block_size", "activation_scheme")}
    fits = (
        found["quant_method"] == "fp8"
        and found["fmt"] in ("e4m3", None)
        and list(found["weight_block_size"] or ()) == [128, 128]
        and found["activation_scheme"] in ("dynamic", None)
    )
    if not fits:
        expected = "quant_method fp8, fmt e4m3, weight_block_size [128, 128], activation_scheme dynamic"
        raise _wrong(f"{place}, quantization_config", expected, str(found))
    return "fp8_block"


def _wrong(place: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        place=place,
        expected=expected,
        found=found,
        next_step="Correct config.json, or run this model with an oracle of another family.",
    )
