# type: ignore - Triton's language is not Python to a type checker
"""Which experts does a token go to, and with what weights? Device code: logits, softmax and top-k of a token tile."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl

# Legend: T tokens, D hidden, E experts, EP = E padded to a power of two, S top-k slots, SP = S padded.


@triton.jit
def router_kernel(
    x_ptr,  # [T, D], row stride x_stride
    weight_ptr,  # [E, D] contiguous
    ids_ptr,  # [T, S] int32
    weights_ptr,  # [T, S] fp32
    logits_ptr,  # [T, E] fp32 or None
    n_tokens,
    x_stride,
    D: tl.constexpr,
    E: tl.constexpr,
    EP: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    token_ok = tokens < n_tokens
    wide = tokens.to(tl.int64)
    experts = tl.arange(0, EP)
    expert_ok = experts < E
    cols = tl.arange(0, BLOCK_D)
    x_ptrs = x_ptr + (wide * x_stride)[:, None] + cols[None, :]
    w_ptrs = weight_ptr + (experts * D)[:, None] + cols[None, :]
    logits = tl.zeros([BLOCK_T, EP], dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        col_ok = cols < D - start
        x = tl.load(x_ptrs + start, mask=token_ok[:, None] & col_ok[None, :], other=0.0)
        w = tl.load(w_ptrs + start, mask=expert_ok[:, None] & col_ok[None, :], other=0.0)
        logits = tl.dot(x, tl.trans(w), acc=logits)
    if logits_ptr is not None:  # probe
        logits_ptrs = logits_ptr + (wide * E)[:, None] + experts[None, :]  # probe
        tl.store(logits_ptrs, logits, mask=token_ok[:, None] & expert_ok[None, :])  # probe

    # Columns past E are no experts: taken from the start, and -inf in the softmax.
    logits = tl.where(expert_ok[None, :], logits, float("-inf"))
    top = tl.max(logits, axis=1)
    total = tl.sum(tl.exp(logits - top[:, None]), axis=1)
    # NaN ranks first, as in torch.topk; the `taken` mask keeps ids distinct and below E whatever the logits hold.
    key = tl.where(logits != logits, float("inf"), logits)
    taken = tl.broadcast_to((experts >= E)[None, :], [BLOCK_T, EP])
    slots = tl.arange(0, SP)
    ids = tl.zeros([BLOCK_T, SP], dtype=tl.int32)
    weights = tl.zeros([BLOCK_T, SP], dtype=tl.float32)
    for slot in tl.static_range(S):
        left = tl.where(taken, float("-inf"), key)
        best = tl.max(left, axis=1)
        candidate = (left == best[:, None]) & (taken == 0)
        choice = tl.min(tl.where(candidate, experts[None, :], EP), axis=1)  # ties: the lowest id
        chosen = experts[None, :] == choice[:, None]
        score = tl.sum(tl.where(chosen, logits, 0.0), axis=1)
        here = (slots == slot)[None, :]
        ids = tl.where(here, choice[:, None], ids)
        weights = tl.where(here, (tl.exp(score - top) / total)[:, None], weights)
        taken = taken | chosen
    if RENORMALIZE:
        weights = weights / tl.sum(weights, axis=1)[:, None]
    offsets = (wide * S)[:, None] + slots[None, :]
    ok = token_ok[:, None] & (slots < S)[None, :]
    tl.store(ids_ptr + offsets, ids, mask=ok)
    tl.store(weights_ptr + offsets, weights, mask=ok)
