"""In which order do (token, slot) pairs become expert rows?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any, NamedTuple

import torch

from parity.errors import ShapeError
from parity_kernels.arguments import require_dense, require_dtype, require_same_device, require_shape, require_within
from parity_kernels.launch import Launch, LaunchFunction, sized
from parity_kernels.permute.kernel import permute_count_kernel, permute_place_kernel
from parity_kernels.permute.launch import permute_launch

# A launch is no Python call to a type checker.
_permute_count: Any = permute_count_kernel
_permute_place: Any = permute_place_kernel


class Permutation(NamedTuple):
    """Expert rows sorted by (expert, token * S + slot), and the way back.

    row_token, row_slot: [R] int32, the pair that expert row r belongs to. slot_row: [T, S] int32, the row of a pair.
    expert_offsets: [E+1] int32; expert e owns rows expert_offsets[e] .. expert_offsets[e+1] - 1.
    """

    row_token: torch.Tensor
    row_slot: torch.Tensor
    expert_offsets: torch.Tensor
    slot_row: torch.Tensor


def permute(
    ids: torch.Tensor,
    *,
    n_experts: int,
    out: Permutation | None = None,
    launch: Launch | LaunchFunction | None = None,
) -> Permutation:
    """Sort all (token, slot) pairs by expert: a stable counting sort, the same result in every run.

    ids: [T, S] int32, contiguous, values in 0 .. n_experts - 1; T may be 0, an expert may have no rows.
    out: buffers to write into. Returns the Permutation; no arithmetic but integers.
    Raises ShapeError, DtypeError before anything is launched, ValueRangeError for an id outside the range on the CPU;
    on a CUDA device such a pair gets no row and its slot_row is not written.
    """
    require_shape("permute: ids", ids, (None, None))
    require_dtype("permute: ids", ids, torch.int32)
    require_dense("permute: ids", ids)
    require_within("permute: ids", ids, 0, n_experts - 1)
    if n_experts < 1:
        raise ShapeError(
            place="permute: n_experts",
            expected="at least one expert",
            found=str(n_experts),
            next_step="Check the config's num_experts.",
        )
    n_tokens, top_k = ids.shape
    n_pairs = n_tokens * top_k
    shapes: list[tuple[int, ...]] = [(n_pairs,), (n_pairs,), (n_experts + 1,), (n_tokens, top_k)]
    if out is None:
        out = Permutation(*(torch.empty(shape, dtype=torch.int32, device=ids.device) for shape in shapes))
    for name, buffer, shape in zip(Permutation._fields, out, shapes, strict=True):
        require_shape(f"permute: {name}", buffer, shape)
        require_dtype(f"permute: {name}", buffer, torch.int32)
        require_dense(f"permute: {name}", buffer)
    require_same_device("permute", ids=ids, **out._asdict())
    if n_pairs == 0:
        out.expert_offsets.zero_()
        return out
    launch = sized(launch, permute_launch, n_pairs=n_pairs, n_experts=n_experts)
    tile = {"E": n_experts, "BLOCK_E": launch.block["e"], "BLOCK_R": launch.block["r"], "num_warps": 8}
    counts = torch.empty(n_experts, dtype=torch.int32, device=ids.device)
    _permute_count[launch.grid](ids, counts, n_pairs, **tile)
    _permute_place[launch.grid](
        ids,
        counts,
        out.row_token,
        out.row_slot,
        out.slot_row,
        out.expert_offsets,
        n_pairs,
        S=top_k,
        EP=launch.block["all_e"],
        **tile,
    )
    return out
