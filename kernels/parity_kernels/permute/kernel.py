# type: ignore - Triton's language is not Python to a type checker
"""In which order do (token, slot) pairs become expert rows? Device code: a stable counting sort without atomics.

Every program owns BLOCK_E experts and reads all ids in order, so that the order of rows depends on nothing but the ids.
"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import triton
import triton.language as tl

# Legend: T tokens, S slots, R = T*S pairs in order token*S + slot, E experts, EP = E padded to a power of two.


@triton.jit
def permute_count_kernel(ids_ptr, counts_ptr, n_pairs, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_R: tl.constexpr):
    """counts[e] = number of pairs with expert e."""
    experts = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    lanes = tl.arange(0, BLOCK_R)
    counts = tl.zeros([BLOCK_E], dtype=tl.int32)
    for start in range(0, n_pairs, BLOCK_R):
        pairs = start + lanes
        ids = tl.load(ids_ptr + pairs, mask=pairs < n_pairs, other=-1)
        counts += tl.sum((ids[None, :] == experts[:, None]).to(tl.int32), axis=1)
    tl.store(counts_ptr + experts, counts, mask=experts < E)


@triton.jit
def permute_place_kernel(
    ids_ptr,  # [R] int32
    counts_ptr,  # [E] int32
    row_token_ptr,  # [R] int32
    row_slot_ptr,  # [R] int32
    slot_row_ptr,  # [R] int32
    offsets_ptr,  # [E + 1] int32
    n_pairs,
    S: tl.constexpr,
    E: tl.constexpr,
    EP: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Offsets of this program's experts, then the place of each of their pairs."""
    everyone = tl.arange(0, EP)
    counts = tl.load(counts_ptr + everyone, mask=everyone < E, other=0)
    experts = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    first = tl.sum(tl.where(everyone[None, :] < experts[:, None], counts[None, :], 0), axis=1)
    # Expert E, the end of the last one, is the sum of all counts; the padded experts never hold a pair.
    tl.store(offsets_ptr + experts, first, mask=experts <= E)
    if (tl.program_id(0) + 1) * BLOCK_E == E:
        tl.store(offsets_ptr + E, tl.sum(counts, axis=0))

    lanes = tl.arange(0, BLOCK_R)
    for start in range(0, n_pairs, BLOCK_R):
        pairs = start + lanes
        ids = tl.load(ids_ptr + pairs, mask=pairs < n_pairs, other=-1)
        mine = (ids[None, :] == experts[:, None]) & (experts < E)[:, None]
        seen = tl.cumsum(mine.to(tl.int32), axis=1)
        rows = first[:, None] + seen - 1
        pair = tl.broadcast_to(pairs[None, :], [BLOCK_E, BLOCK_R])
        tl.store(row_token_ptr + rows, pair // S, mask=mine)
        tl.store(row_slot_ptr + rows, pair % S, mask=mine)
        tl.store(slot_row_ptr + pair, rows, mask=mine)
        first += tl.sum(mine.to(tl.int32), axis=1)
