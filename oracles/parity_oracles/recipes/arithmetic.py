"""In which precision does a stage compute, where does it round, and which re-orderings leave the recipe the same?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from parity.errors import UsageError
from parity.records import Recipe
from parity_oracles.recipes.ggml import ggml_recipe
from parity_oracles.recipes.vllm import CARRIED, CARRIED_ON_GPU, INSIDE

BLOCK = 128
"""Rows and columns of a weight scale's block, and columns of an activation scale's group."""


@dataclass(frozen=True)
class Arithmetic:
    """A precision recipe as the stage functions apply it.

    compute: the dtype in which a stage computes. boundary: the dtype to which activations are rounded, once, at the
    end of a stage; None leaves them in `compute`. linear: how linear layers multiply, `exact` (dequantized weights),
    `bf16` or `q8_0` (both operands rounded to it), or `fp8_block` (weights and activations in E4M3).
    ggml: the record of ggml's recipe, for one of those: the head is multiplied as the other matrices are, and `cache`
    is the dtype of the KV cache, to which queries and probabilities are rounded as well. fused: attention is blocked,
    and accumulates P V in `cache`.
    torch: every operation rounds to `boundary`, as PyTorch runs a model's definition in 16 bits: rope's cosines and
    products, a norm before its gain, silu before its product, router logits, routing weights and logits as well.
    materialized: attention too, its scores, scaled scores and probabilities; else it is a fused core, as in the others.
    Source: transformers' modeling_qwen3_moe.py and modeling_llama.py, operation by operation.
    vllm: as vLLM's kernels round, and gpu: those for GPUs; see parity_oracles/recipes/vllm.py.
    """

    name: str
    compute: torch.dtype
    boundary: torch.dtype | None
    linear: str
    ggml: Recipe | None = None
    cache: torch.dtype | None = None
    fused: bool = False
    torch: bool = False
    materialized: bool = False
    vllm: bool = False
    gpu: bool = False

    @property
    def exact(self) -> bool:
        """True for fp64, which has one order. In fp32 order 0 is the truth that engines are held against; the others
        are what another engine in fp32 may compute."""
        return self.compute == torch.float64

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """A stage's input: rounded to the boundary dtype if it is not in it already, then widened to `compute`."""
        if self.boundary is not None and x.dtype != self.boundary:
            x = x.to(self.boundary)
        return x.to(self.compute)

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        """A stage's output: rounded once, to nearest even."""
        return x.to(self.boundary or self.compute)

    @property
    def wide(self) -> torch.dtype:
        """The dtype of the stages that most recipes keep wide: router logits, routing weights, logits."""
        return (self.boundary or self.compute) if self.torch or self.vllm else self.compute

    @property
    def inside(self) -> frozenset[str]:
        """Stages that an engine of this recipe cannot show: they live inside one kernel."""
        return INSIDE if self.vllm else frozenset()

    @property
    def carried(self) -> frozenset[str]:
        """Stages that are shown rounded and that the same kernel hands on unrounded."""
        return (CARRIED_ON_GPU if self.gpu else CARRIED) if self.vllm else frozenset()

    def recipe(self, weights: str) -> Recipe:
        """The record of this recipe over weights stored as `weights`."""
        if self.ggml is not None:
            return self.ggml
        activations = {torch.float32: "fp32", torch.float64: "fp64"}.get(self.compute, str(self.compute))
        if self.boundary is None:
            return Recipe(self.name, weights, activations, activations, activations, activations, activations)
        if self.linear == "fp8_block":
            return Recipe(self.name, weights, "e4m3 1x128 dynamic", "e4m3", "fp32", "bf16", "bf16")
        return Recipe(self.name, weights, "bf16", "bf16", "fp32", "bf16", "bf16")


def _ggml(weights: str, kv: str, flash: bool) -> Arithmetic:
    recipe = ggml_recipe(weights, kv, flash=flash)
    cache = torch.float16 if kv == "f16" or flash else None
    linear = "exact" if weights == "f32" else weights
    return Arithmetic(recipe.name, torch.float32, None, linear, ggml=recipe, cache=cache, fused=flash)


ARITHMETICS = {
    arithmetic.name: arithmetic
    for arithmetic in (
        Arithmetic("fp64", torch.float64, None, "exact"),
        Arithmetic("fp32", torch.float32, None, "exact"),
        Arithmetic("bf16", torch.float32, torch.bfloat16, "bf16"),
        Arithmetic("fp8_block", torch.float32, torch.bfloat16, "fp8_block"),
        Arithmetic("bf16_torch", torch.float32, torch.bfloat16, "bf16", torch=True, materialized=True),
        Arithmetic("bf16_torch_sdpa", torch.float32, torch.bfloat16, "bf16", torch=True),
        Arithmetic("bf16_vllm", torch.float32, torch.bfloat16, "bf16", vllm=True),
        Arithmetic("bf16_vllm_cuda", torch.float32, torch.bfloat16, "bf16", vllm=True, gpu=True),
        *(_ggml(weights, kv, False) for weights in ("f32", "bf16", "q8_0") for kv in ("f32", "f16")),
        *(_ggml(weights, "f16", True) for weights in ("f32", "bf16", "q8_0")),
    )
}


def arithmetic(name: str) -> Arithmetic:
    """The arithmetic called `name`; raises UsageError with the known names for another."""
    if name not in ARITHMETICS:
        raise UsageError(
            place="precision recipe",
            expected="one of " + ", ".join(ARITHMETICS),
            found=repr(name),
            next_step="Choose one of those, or leave it out to take the checkpoint's own.",
        )
    return ARITHMETICS[name]


@dataclass(frozen=True)
class Order:
    """One of the orders in which a correct implementation may do the same arithmetic.

    dot: values of K that one fp32 dot product sums before the next is added to it; None: as the library likes.
    split_k: parts of K that are accumulated apart and added at the end. kv_block: keys per block of the online softmax;
    None: all at once. base2: exponentials as 2**(x*log2(e)). norm: values summed at once in a norm's mean square.
    scales_apart: FP8 partial sums times the activation's scale, then times the weight's, instead of their product.
    inv_freq64: rope frequencies computed in fp64 and then rounded, instead of in
    fp32 throughout. contracted: elementwise multiply-adds without the intermediate rounding, silu as x / (1 + exp(-x)),
    a norm as a division by a root; as compilers and GPUs do it.
    reciprocal: activations times 1/scale before they are rounded to E4M3, instead of divided by the scale. This leaves
    the letter of the specification, as approximate division on a GPU does: BF16 values often lie exactly on a tie of
    E4M3, and half an ulp then moves them by a whole step, 2e-3 of a projection's norm where the others move 1e-5.
    tensor_core: linear layers, and in attention Q K and P V, summed as a GPU's matrix unit does
    (parity_oracles/recipes/tensor_core.py); the number is how many values of K in E4M3 it sums before they are moved to
    fp32.
    stepwise: elementwise stages round after each of their operations, not only at their end: a normed row before its
    gain, silu before its product, a weighted expert row before and after it is added. The models' own definition does
    (RMSNorm of transformers returns `weight * normed.to(input_dtype)`, and computes in BF16 elsewhere), and so do
    kernels that follow it; a fused kernel does not. Both are the model in BF16.
    half_even: activations in Q8_0 round halves to even, as vector instructions do, and not away from zero.
    """

    dot: int | None = None
    split_k: int = 1
    kv_block: int | None = 64
    base2: bool = False
    norm: int | None = None
    scales_apart: bool = False
    inv_freq64: bool = False
    contracted: bool = False
    reciprocal: bool = False
    tensor_core: int | None = None
    stepwise: bool = False
    half_even: bool = False

    @property
    def strict(self) -> bool:
        """True when the order is within the letter of the specification."""
        return not self.reciprocal


ORDERS = (
    Order(),
    Order(dot=32, kv_block=32, base2=True, norm=64, inv_freq64=True, contracted=True, half_even=True),
    Order(dot=64, kv_block=128, norm=32, scales_apart=True),
    Order(dot=16, split_k=2, kv_block=None, norm=128, base2=True, contracted=True),
    Order(reciprocal=True),
    Order(dot=16, kv_block=32, base2=True, scales_apart=True, contracted=True, reciprocal=True),
    Order(tensor_core=32, kv_block=128, base2=True, contracted=True),
    Order(tensor_core=128, norm=64, inv_freq64=True),
    Order(dot=128, kv_block=32, norm=32, stepwise=True),
    Order(tensor_core=64, split_k=2, kv_block=32, base2=True, norm=128, contracted=True, stepwise=True),
)
"""Order 0 is the specification read plainly. Orders 4 and 5 are for engines whose division is not IEEE's; 6, 7 and 9
sum as a GPU's matrix units do; 8 and 9 round as an unfused model does. Noise floors are calibrated from runs in the
strict ones."""
