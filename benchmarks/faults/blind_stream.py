"""Defects of norms, the residual stream, embeddings, the head, and of what surrounds the forward pass."""

import dataclasses

import torch

from parity.faults import Fault, where
from parity.records import Site, Slice
from parity_kernels.linear.launch import linear_launch

FP8, BF16 = {"recipe": "fp8_block"}, {"recipe": "bf16"}
F = "qwen3_moe"


def residual_dropped(op):
    def add(x, residual, weight, **rest):
        if where().layer == 2 and where().role == "mlp.norm":
            residual = torch.zeros_like(residual)
        return op(x, residual, weight, **rest)

    return add


def norm_of_layer_before(op):
    kept = {}

    def add(x, residual, weight, **rest):
        if where().role == "attn.norm":
            if where().layer == 1:
                kept["weight"] = weight
            if where().layer == 2:
                weight = kept["weight"]
        return op(x, residual, weight, **rest)

    return add


def plus_one(name, tensor):
    return tensor + 1


def out_scales_shifted(op):
    def linear(q, s, weight, weight_scale, **rest):
        if where().role == "attn.out" and where().layer == 0:
            weight_scale = weight_scale.clone()
            weight_scale[1] = torch.roll(weight_scale[1], 1)
        return op(q, s, weight, weight_scale, **rest)

    return linear


def floor_of_rows(*, op, n_rows, n_cols, depth):
    made = linear_launch(op=op, n_rows=n_rows, n_cols=n_cols, depth=depth)
    now = where()
    if now.role != "attn.out" or now.layer != 1 or n_rows < 64:
        return made
    return dataclasses.replace(made, grid=(n_rows // 64, made.grid[1]), block={**made.block, "m": 64})


def embed_shard_edge(op):
    """The second half of the vocabulary is read one row late."""

    def embed(ids, weight, **rest):
        ids = torch.where(ids >= 2048, (ids + 1).clamp(max=len(weight) - 1), ids)
        return op(ids, weight, **rest)

    return embed


def head_tail_small(op):
    def linear(*given, **rest):
        out = op(*given, **rest)
        if where().role == "logits":
            out[:, 3840:] *= 0.9
        return out

    return linear


def logits_in_bf16(op):
    def linear(*given, **rest):
        out = op(*given, **rest)
        if where().role == "logits":
            out.copy_(out.bfloat16())
        return out

    return linear


def middle_zero(op):
    def add(x, residual, weight, **rest):
        normed, summed = op(x, residual, weight, **rest)
        if where().role == "mlp.norm" and where().layer == 1:
            normed[:, 128:256] = 0
        return normed, summed

    return add


def no_repeat(logits):
    logits = logits.clone()
    logits[list(where().ids)] = float("-inf")
    return int(logits.argmax())


def no_system(prompt):
    if prompt.ids is not None:
        return prompt
    return dataclasses.replace(
        prompt, messages=({"role": "system", "content": "You are a helpful assistant."}, *prompt.messages)
    )


def first_dropped(prompt):
    if prompt.ids is None:
        return prompt
    return dataclasses.replace(prompt, ids=(prompt.ids[0], *prompt.ids))


FAULTS = [
    Fault(
        name="residual_dropped",
        family=F,
        summary="Layer 2 does not add the residual to the attention's output.",
        truth=Site((2,), "resid.mid"),
        cause="residual not added",
        op="add_rmsnorm",
        wrap=residual_dropped,
        needs=FP8,
    ),
    Fault(
        name="norm_of_layer_before",
        family=F,
        summary="Layer 2 uses the input norm weight of layer 1.",
        truth=Site((2,), "attn.norm"),
        cause="a factor of its own for each channel",
        op="add_rmsnorm",
        wrap=norm_of_layer_before,
        needs=BF16,
    ),
    Fault(
        name="k_norm_offset",
        family=F,
        summary="The key norm's weight is used as w + 1.",
        truth=Site((1,), "attn.k_norm"),
        rung="checkpoint",
        cause="a factor of its own for each channel",
        weights={"model.layers.1.self_attn.k_norm.weight": plus_one},
        needs=FP8,
    ),
    Fault(
        name="out_scales_shifted",
        family=F,
        summary="Block scales of one row of blocks are shifted along K.",
        truth=Site((0,), "attn.out", Slice(columns=(128, 256))),
        cause="block scales misplaced",
        op="linear_fp8",
        wrap=out_scales_shifted,
        needs=FP8,
    ),
    Fault(
        name="floor_of_rows",
        family=F,
        summary="The output projection's grid is a floor: the last rows are missing.",
        truth=Site((1,), "attn.out"),
        cause="rows were never written",
        launch={"linear": floor_of_rows},
        engine={"zeroed_arena": True},
        needs=BF16,
    ),
    Fault(
        name="embed_shard_edge",
        family=F,
        summary="Ids of the upper half of the vocabulary read the next row.",
        truth=Site((), "embed.out"),
        cause="reads a wrong buffer",
        op="embed",
        wrap=embed_shard_edge,
        needs=BF16,
    ),
    Fault(
        name="head_tail_small",
        family=F,
        summary="The last 256 logits are 10 % too small.",
        truth=Site((), "logits", Slice(columns=(3840, 4096))),
        cause="constant ratio",
        op="linear_bf16",
        wrap=head_tail_small,
        needs=FP8,
    ),
    Fault(
        name="logits_in_bf16",
        family=F,
        summary="Logits are rounded to bf16, which the recipe does not.",
        truth=Site((), "logits"),
        cause="values on the grid of a narrower dtype",
        op="linear_bf16",
        wrap=logits_in_bf16,
        needs=FP8,
    ),
    Fault(
        name="norm_middle_zero",
        family=F,
        summary="The middle third of a norm's output is zero.",
        truth=Site((1,), "mlp.norm", Slice(columns=(128, 256))),
        cause="one segment of columns is wrong",
        op="add_rmsnorm",
        wrap=middle_zero,
        needs=BF16,
    ),
    Fault(
        name="eps_large",
        family=F,
        summary="The norms' eps is 1e-2.",
        truth=None,
        rung="config",
        cause="hyper-parameter differs from the checkpoint",
        config={"rms_eps": 1e-2},
        details={"key": "rms_eps"},
        needs=FP8,
    ),
    Fault(
        name="no_repeat",
        family=F,
        summary="Ids that occurred before are never chosen, and nobody asked for it.",
        rung="decode",
        cause="sampler picks another token than its own rule",
        sampler=no_repeat,
        needs=BF16,
    ),
    Fault(
        name="repetition_penalty",
        family=F,
        summary="A repetition penalty of 1.5 is in force.",
        rung="decode",
        cause="sampler picks another token than its own rule",
        engine={"repetition_penalty": 1.5},
        needs=FP8,
    ),
    Fault(
        name="system_injected",
        family=F,
        summary="A default system message is injected.",
        rung="prompt",
        cause="prompt differs from the tokenizer's template",
        prompt=no_system,
        needs=BF16,
    ),
    Fault(
        name="first_id_doubled",
        family=F,
        summary="The first id of a request is fed twice.",
        rung="prompt",
        cause="prompt differs from the tokenizer's template",
        prompt=first_dropped,
        needs=FP8,
    ),
]
