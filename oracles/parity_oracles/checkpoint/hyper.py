"""With which hyper-parameters must a model run? Read from its `config.json`; a missing one is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from parity.errors import ConfigError


@dataclass(frozen=True)
class Hyper:
    """Hyper-parameters of a decoder (llama, qwen3, qwen3_moe); sizes in elements.

    experts, top_k: 0 in a dense model. expert_width: of an expert, or of the one MLP of a dense layer.
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

    def implied(self) -> dict[str, Any]:
        """All values of `as_dict`, and those that the family fixes: an engine must run with them too.

        softmax_scale: 1 over the root of a head's width. norm_offset: what is added to a norm's stored gain.
        rotary_dim: elements of a head that rope turns. A scaled rope and a sliding window are refused at reading.
        Source: HF Llama, Qwen3, Qwen3Moe (`scaling = head_dim**-0.5`, RMSNorm `weight * x`, rope over the whole head).
        """
        return {
            **self.as_dict(),
            "softmax_scale": self.head_dim**-0.5,
            "norm_offset": 0.0,
            "rope_scaling": None,
            "rotary_dim": self.head_dim,
            "sliding_window": None,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, for a trace and for an audit."""
        return asdict(self)


FAMILIES = ("llama", "qwen3", "qwen3_moe")

REFUSED = {
    "use_sliding_window": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "mlp_only_layers": ([],),
    "decoder_sparse_step": (1,),
    "pretraining_tp": (1,),
    "hidden_act": ("silu",),
    "rope_scaling": ({},),
    "auto_map": ({},),
    "trust_remote_code": (False,),
}
"""Settings outside the family's stage graph, with the values that, besides null, mean "absent". `auto_map` names code
of the checkpoint's own, which is never run: with it the stock architecture may not be the model's."""

MOST = 2**31 - 1
"""Largest size of an axis; none that exists comes near it, and products of two stay within 64 bits."""

WIDEST = 2**31 - 1
"""Largest width of a fused projection (heads times head_dim)."""


def read_hyper(config: Mapping[str, Any], *, place: str = "config.json") -> Hyper:
    """The hyper-parameters in an HF configuration.

    Both spellings of the rope base are read (`rope_parameters.rope_theta`, and `rope_theta` of older files); when both
    are there and differ, that is an error. Raises ConfigError for a missing value, for one of another type or out of
    its range or in contradiction with another, and for a setting that the family's stage graph does not describe: an
    oracle that ran with a default instead would be silently wrong.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise _wrong(place, f"model_type {' or '.join(FAMILIES)}", repr(family))
    sparse = family == "qwen3_moe"
    for key, allowed in REFUSED.items():
        if config.get(key) is not None and not any(_same(config[key], value) for value in allowed):
            raise _wrong(f"{place}, {key}", " or ".join(map(repr, allowed)) + " or none", repr(config[key]))
    heads = _size(config, place, "num_attention_heads")
    hidden = _size(config, place, "hidden_size")
    hyper = Hyper(
        family=str(family),
        vocab=_size(config, place, "vocab_size"),
        hidden=hidden,
        layers=_size(config, place, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size(config, place, "num_key_value_heads"),
        head_dim=hidden // heads if config.get("head_dim") is None else _size(config, place, "head_dim"),
        experts=_size(config, place, "num_experts", "num_local_experts") if sparse else 0,
        top_k=_size(config, place, "num_experts_per_tok") if sparse else 0,
        expert_width=_size(config, place, "moe_intermediate_size" if sparse else "intermediate_size"),
        norm_topk_prob=sparse and _truth(config, place, "norm_topk_prob"),
        rms_eps=_real(_value(config, place, "rms_norm_eps"), f"{place}, rms_norm_eps", 0.0, 1.0),
        rope_theta=_rope_base(config, place),
        tied_embeddings=config.get("tie_word_embeddings") is not None and _truth(config, place, "tie_word_embeddings"),
        max_positions=_size(config, place, "max_position_embeddings"),
        quantization=_quantization(config.get("quantization_config"), place),
    )
    if hyper.top_k > hyper.experts:
        raise _wrong(f"{place}, num_experts_per_tok", f"at most the {hyper.experts} experts", str(hyper.top_k))
    if heads % hyper.kv_heads:
        raise _wrong(f"{place}, num_key_value_heads", f"a divisor of the {heads} heads", str(hyper.kv_heads))
    if hyper.head_dim < 2 or hyper.head_dim % 2:
        raise _wrong(f"{place}, head_dim", "an even number from 2, whose halves rope turns", str(hyper.head_dim))
    if heads * hyper.head_dim > WIDEST:
        raise _wrong(f"{place}, head_dim", f"heads times head_dim up to {WIDEST}", str(heads * hyper.head_dim))
    return hyper


def _rope_base(config: Mapping[str, Any], place: str) -> float:
    rope = config.get("rope_parameters")
    if rope is not None and not isinstance(rope, Mapping):
        raise _wrong(f"{place}, rope_parameters", "an object", repr(rope))
    rope = rope or {}
    if rope.get("rope_type", "default") != "default":
        raise _wrong(f"{place}, rope_parameters", "rope_type 'default'", repr(rope["rope_type"]))
    # A base of 1 or less turns no pair slower than the first: positions would not be told apart.
    bases = {
        _real(source["rope_theta"], f"{place}, rope_theta", 1.0, torch.finfo(torch.float32).max)
        for source in (rope, config)
        if source.get("rope_theta") is not None
    }
    if len(bases) != 1:
        raise _wrong(f"{place}, rope_theta", "one value", f"{sorted(bases) or 'none'}")
    return bases.pop()


def _value(config: Mapping[str, Any], place: str, *keys: str) -> Any:
    given = {key: config[key] for key in keys if config.get(key) is not None}
    if not given:
        raise _wrong(place, f"a value for {' or '.join(keys)}", "none")
    values = list(given.values())
    if any(not _same(value, values[0]) for value in values):
        raise _wrong(f"{place}, {' and '.join(given)}", "the same value", repr(values))
    return values[0]


def _size(config: Mapping[str, Any], place: str, *keys: str) -> int:
    value = _value(config, place, *keys)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise _wrong(f"{place}, {' or '.join(keys)}", f"a whole number, 1..{MOST}", repr(value))
    return value


def _truth(config: Mapping[str, Any], place: str, key: str) -> bool:
    value = _value(config, place, key)
    if not isinstance(value, bool):
        raise _wrong(f"{place}, {key}", "true or false", repr(value))
    return value


def _real(value: Any, place: str, low: float, high: float) -> float:
    """`value` as a float strictly between `low` and `high`; NaN is not, nor is true or a number in quotes."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
        raise _wrong(place, f"a number between {low:g} and {high:g}", repr(value))
    return float(value)


def _same(a: Any, b: Any) -> bool:
    """Equal and of one type: in Python False equals 0 and True equals 1."""
    return type(a) is type(b) and a == b


def _quantization(section: Any, place: str) -> str | None:
    if section is None:
        return None
    expected = "quant_method fp8, fmt e4m3, weight_block_size [128, 128], activation_scheme dynamic"
    if not isinstance(section, Mapping):
        raise _wrong(f"{place}, quantization_config", expected, repr(section))
    found = {key: section.get(key) for key in ("quant_method", "fmt", "weight_block_size", "activation_scheme")}
    fits = (
        found["quant_method"] == "fp8"
        and found["fmt"] in ("e4m3", None)
        and found["weight_block_size"] == [128, 128]
        and found["activation_scheme"] in ("dynamic", None)
    )
    if not fits:
        raise _wrong(f"{place}, quantization_config", expected, str(found))
    return "fp8_block"


def _wrong(place: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        place=place,
        expected=expected,
        found=found[:300],
        next_step="Correct config.json, or run this model with an oracle of another family.",
    )
