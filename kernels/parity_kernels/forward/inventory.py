"""Are these the tensors that the configuration implies? Checked from headers and scales, before a weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from parity.errors import CheckpointError
from parity_kernels.forward.config import ModelConfig
from parity_kernels.forward.files import Shards
from parity_kernels.launch import ceil_div

BLOCK = 128
SCALE = "_scale_inv"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class Expected:
    """A tensor that the configuration implies. linear: a matrix that may be stored as E4M3 with a scale a block."""

    name: str
    shape: tuple[int, ...]
    linear: bool = False


def expected_tensors(c: ModelConfig) -> Iterator[Expected]:
    """Every weight of the model but the scales, in the order of the layers."""
    q_rows, kv_rows = c.heads * c.head_dim, c.kv_heads * c.head_dim
    yield Expected(EMBEDDING, (c.vocab, c.hidden))
    yield Expected("model.norm.weight", (c.hidden,))
    if not c.tied_embeddings:
        yield Expected(HEAD, (c.vocab, c.hidden))
    for layer in range(c.layers):
        p = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield Expected(f"{p}{name}.weight", (c.hidden,))
        for name in ("q_norm", "k_norm"):
            yield Expected(f"{p}self_attn.{name}.weight", (c.head_dim,))
        for name, rows, columns in (
            ("q", q_rows, c.hidden),
            ("k", kv_rows, c.hidden),
            ("v", kv_rows, c.hidden),
            ("o", c.hidden, q_rows),
        ):
            yield Expected(f"{p}self_attn.{name}_proj.weight", (rows, columns), linear=True)
        yield Expected(f"{p}mlp.gate.weight", (c.experts, c.hidden))
        for expert in range(c.experts):
            for name, shape in (
                ("gate", (c.expert_width, c.hidden)),
                ("up", (c.expert_width, c.hidden)),
                ("down", (c.hidden, c.expert_width)),
            ):
                yield Expected(f"{p}mlp.experts.{expert}.{name}_proj.weight", shape, linear=True)


def check_inventory(shards: Shards, config: ModelConfig) -> None:
    """Raise CheckpointError unless each tensor is there in its shape and dtype, each scale in its grid and usable, and
    nothing besides; reads headers and scales alone."""
    expected: dict[str, Expected] = {}
    missing: list[str] = []
    for tensor in expected_tensors(config):
        # A configuration may claim a billion layers: stop at what is missing instead of listing it all.
        expected[tensor.name] = tensor
        if tensor.name not in shards.stored:
            missing.append(tensor.name)
            if len(missing) == 3:
                break
    if missing:
        raise _wrong(shards, missing[0], "one tensor of this name", "no such tensor; missing: " + ", ".join(missing))
    for tensor in expected.values():
        _check_stored(shards, tensor)
    _check_experts(shards, config)
    scaled = [tensor for tensor in expected.values() if shards.stored[tensor.name].dtype == "F8_E4M3"]
    if bool(scaled) != (config.quantization is not None):
        raise _wrong(
            shards,
            scaled[0].name if scaled else next(t.name for t in expected.values() if t.linear),
            "E4M3 weights exactly when config.json has a quantization_config",
            f"{len(scaled)} E4M3 weights with quantization {config.quantization}",
        )
    for tensor in scaled:
        _check_scale(shards, tensor)
    allowed = expected.keys() | {tensor.name + SCALE for tensor in scaled}
    if config.tied_embeddings and HEAD in shards.stored:
        _check_tied_head(shards)
        allowed |= {HEAD}
    extra = sorted(shards.stored.keys() - allowed)
    if extra:
        raise CheckpointError(
            place=f"{shards.folder}, tensor {extra[0]}",
            expected="no tensor besides those that config.json implies, scales of E4M3 weights included",
            found=f"{len(extra)} more: " + ", ".join(extra[:3]),
            next_step="A tensor nobody asks for is a norm or a scale that is silently not applied: extend the "
            "loader, or remove the tensor.",
        )


def _check_stored(shards: Shards, tensor: Expected) -> None:
    stored = shards.stored[tensor.name]
    if stored.shape != tensor.shape:
        raise _wrong(shards, tensor.name, f"shape {list(tensor.shape)}", str(list(stored.shape)))
    allowed = ("BF16", "F8_E4M3") if tensor.linear else ("BF16",)
    if stored.dtype not in allowed:
        words = "dtype bfloat16 or float8_e4m3fn" if tensor.linear else "dtype bfloat16"
        raise _wrong(shards, tensor.name, words, stored.dtype)


def _check_experts(shards: Shards, config: ModelConfig) -> None:
    """One grouped GEMM multiplies with all experts of a layer: they must be of one dtype."""
    for layer in range(config.layers):
        for parts in (("gate", "up"), ("down",)):
            at = f"model.layers.{layer}.mlp.experts"
            names = [f"{at}.{expert}.{part}_proj.weight" for expert in range(config.experts) for part in parts]
            first = shards.stored[names[0]].dtype
            for name in names:
                if shards.stored[name].dtype != first:
                    found = shards.stored[name].dtype
                    raise _wrong(shards, name, f"dtype {first} like the other experts of the layer", found)


def _check_scale(shards: Shards, tensor: Expected) -> None:
    name = tensor.name + SCALE
    stored = shards.stored.get(name)
    if stored is None:
        raise _wrong(shards, name, f"the scales of the E4M3 weight {tensor.name}", "no such tensor")
    grid = (ceil_div(tensor.shape[0], BLOCK), ceil_div(tensor.shape[1], BLOCK))
    if stored.shape != grid:
        raise _wrong(shards, name, f"shape {list(grid)}, one scale a {BLOCK}x{BLOCK} block", str(list(stored.shape)))
    if stored.dtype not in ("F32", "BF16"):
        raise _wrong(shards, name, "dtype float32 or bfloat16", stored.dtype)
    scale = shards.read(name).float()
    wrong = (~(scale.isfinite() & (scale > 0))).nonzero().tolist()
    for row, column in wrong:
        if scale[row, column] == 0:
            rows = slice(row * BLOCK, (row + 1) * BLOCK)
            block = shards.read(tensor.name)[rows, column * BLOCK : (column + 1) * BLOCK]
            if not bool(block.view(torch.uint8).bitwise_and(0x7F).any()):
                continue  # zeros times zero: some converters write that for an empty block
        raise _wrong(shards, name, "finite scales above 0", f"{float(scale[row, column])} for block [{row}, {column}]")


def _check_tied_head(shards: Shards) -> None:
    """Some exporters write the tied matrix a second time; it must then be the same one."""
    head, embedding = shards.read(HEAD), shards.read(EMBEDDING)
    if head.dtype != embedding.dtype or not torch.equal(head, embedding):
        raise _wrong(shards, HEAD, "the embedding matrix (tie_word_embeddings)", "other values")


def _wrong(shards: Shards, name: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        place=f"{shards.folder}, tensor {name}",
        expected=expected,
        found=found,
        next_step="Check config.json against the checkpoint, or download it again.",
    )
