"""Write the new keys and values of packed rows into the cache."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

from typing import Any

import torch

from parity_kernels.arguments import (
    require_dense,
    require_dtype,
    require_same_device,
    require_shape,
    require_within,
)
from parity_kernels.kv_write.kernel import kv_write_kernel
from parity_kernels.kv_write.launch import kv_write_launch
from parity_kernels.launch import Launch, LaunchFunction, sized

# A launch is no Python call to a type checker.
_kv_write: Any = kv_write_kernel


def kv_write(
    k: torch.Tensor,
    v: torch.Tensor,
    cache_k: torch.Tensor,
    cache_v: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    *,
    launch: Launch | LaunchFunction | None = None,
) -> None:
    """Copy row t of `k` and `v` to (slots[t], positions[t]) of the caches, bit for bit.

    k, v: [T, G, K], any floating dtype; G and K dense, rows may be strided (a slice of a fused projection). T may be 0.
    cache_k, cache_v: [slots, L, G, K] of the same dtype; written in place, all other positions untouched.
    slots, positions: [T] int32 or int64. Two rows with the same slot and position: which one stays is undefined.
    Raises ShapeError, DtypeError before anything is launched. A slot or position outside the cache raises
    ValueRangeError on the CPU; on a CUDA device, where looking would wait for it, that row is dropped.
    """
    n_rows, kv_heads, head_dim = k.shape if k.dim() == 3 else (None, None, None)
    require_shape("kv_write: k", k, (n_rows, kv_heads, head_dim))
    require_shape("kv_write: v", v, (n_rows, kv_heads, head_dim))
    for name, cache in (("cache_k", cache_k), ("cache_v", cache_v)):
        require_shape(f"kv_write: {name}", cache, (cache_k.shape[0], cache_k.shape[1], kv_heads, head_dim))
        require_dtype(f"kv_write: {name}", cache, k.dtype)
        require_dense(f"kv_write: {name}", cache, from_dim=2)
    require_dtype("kv_write: k", k, torch.bfloat16, torch.float16, torch.float32)
    require_dtype("kv_write: v", v, k.dtype)
    for name, rows in (("k", k), ("v", v)):
        require_dense(f"kv_write: {name}", rows, from_dim=1)
    for name, index, high in (("slots", slots, cache_k.shape[0]), ("positions", positions, cache_k.shape[1])):
        require_shape(f"kv_write: {name}", index, (n_rows,))
        require_dtype(f"kv_write: {name}", index, torch.int32, torch.int64)
        require_dense(f"kv_write: {name}", index)
        require_within(f"kv_write: {name}", index, 0, high - 1)
    require_same_device("kv_write", k=k, v=v, cache_k=cache_k, cache_v=cache_v, slots=slots, positions=positions)
    if k.numel() == 0:
        return
    columns = k.shape[1] * k.shape[2]
    launch = sized(launch, kv_write_launch, n_rows=k.shape[0], n_columns=columns)
    _kv_write[launch.grid](
        k,
        v,
        cache_k,
        cache_v,
        slots,
        positions,
        k.shape[0],
        cache_k.shape[0],
        cache_k.shape[1],
        k.stride(0),
        v.stride(0),
        cache_k.stride(0),
        cache_k.stride(1),
        cache_v.stride(0),
        cache_v.stride(1),
        C=columns,
        BLOCK_T=launch.block["t"],
        BLOCK_C=launch.block["c"],
        num_warps=4,
    )
