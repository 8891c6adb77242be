"""What is the precision recipe of ggml's CPU backend, by the types of weights and KV cache? A name and a record of it.

A matrix product rounds its activations to the type that its weights are multiplied with (`vec_dot_type` of
ggml-cpu.c: F32, F16, BF16 and Q8_0 each with itself) and accumulates in fp32; everything between is fp32. Attention is
two such products, with the KV cache in the place of weights: queries are rounded to its type, and so are the
probabilities. Norms and routers are stored, and computed, in F32.
"""

from __future__ import annotations

from parity.records import Recipe

FULL = "f32"


def recipe_name(weights: str, kv: str, *, flash: bool = False) -> str:
    """`ggml_bf16_kv_f16`: types as ggml spells them, in small letters. Flash attention reads an F32 cache as F16."""
    kv = "f16" if flash else kv
    return f"ggml_{weights}_kv_{kv}" + ("_flash" if flash else "")


def ggml_recipe(weights: str, kv: str, *, flash: bool = False) -> Recipe:
    """The record of the recipe. weights: the type of the matrices; of several, joined by `+`."""
    activations = "fp32" if weights == FULL else weights
    return Recipe(recipe_name(weights, kv, flash=flash), weights, activations, "fp32", "fp32", kv, "fp32")
