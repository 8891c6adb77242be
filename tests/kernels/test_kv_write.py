"""Does kv_write put every row where it belongs, and nothing anywhere else? No arithmetic, so the tolerance is zero."""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import pytest
import torch

from parity.errors import DtypeError, ShapeError, ValueRangeError
from parity_kernels.kv_write.launch import kv_write_launch
from parity_kernels.kv_write.op import kv_write
from parity_kernels.kv_write.reference import kv_write_reference

SLOTS, LENGTH, HEADS, DIM = 3, 40, 2, 16


def make(rows, generator, device, dtype=torch.bfloat16):
    k, v = (torch.randn(rows, HEADS, DIM, generator=generator).to(dtype) for _ in range(2))
    place = torch.randperm(SLOTS * LENGTH, generator=generator)[:rows]
    cache = torch.full((SLOTS, LENGTH, HEADS, DIM), float("nan"), dtype=dtype)
    tensors = (k, v, cache, cache.clone(), (place // LENGTH).to(torch.int32), place % LENGTH)
    return [tensor.to(device) for tensor in tensors]


def bits(tensor):
    return tensor.cpu().view(torch.int16 if tensor.element_size() == 2 else torch.int32)


@pytest.mark.parametrize("rows", [0, 1, 7, 15, 16, 17, 120])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bit_equal_and_everything_else_untouched(rows, dtype, generator, device):
    k, v, cache_k, cache_v, slots, positions = make(rows, generator, device, dtype)
    want_k, want_v = cache_k.clone(), cache_v.clone()
    kv_write_reference(k, v, want_k, want_v, slots, positions)
    kv_write(k, v, cache_k, cache_v, slots, positions)
    assert torch.equal(bits(cache_k), bits(want_k))
    assert torch.equal(bits(cache_v), bits(want_v))


def test_a_neighbouring_position_would_be_seen(generator, device):
    """Planted defect: the same rows one position further."""
    k, v, cache_k, cache_v, slots, _ = make(5, generator, device)
    positions = torch.arange(5, device=device)
    want_k, want_v = cache_k.clone(), cache_v.clone()
    kv_write_reference(k, v, want_k, want_v, slots, positions + 1)
    kv_write(k, v, cache_k, cache_v, slots, positions)
    assert not torch.equal(bits(cache_k), bits(want_k))


def test_strided_rows_and_a_strided_cache(generator, device):
    k, v, cache_k, cache_v, slots, positions = make(9, generator, device)
    fused = torch.cat([k, v], dim=1)  # a fused projection: k and v are slices of its rows
    layers = torch.full((SLOTS, LENGTH, 2, HEADS, DIM), float("nan"), dtype=k.dtype, device=device)
    kv_write(fused[:, :HEADS], fused[:, HEADS:], layers[:, :, 0], layers[:, :, 1], slots, positions)
    kv_write_reference(k, v, cache_k, cache_v, slots, positions)
    assert torch.equal(bits(layers[:, :, 0].contiguous()), bits(cache_k))
    assert torch.equal(bits(layers[:, :, 1].contiguous()), bits(cache_v))


def test_a_row_without_a_place_raises_or_is_dropped(generator, device):
    k, v, cache_k, cache_v, slots, positions = make(4, generator, device)
    before = cache_k.clone()
    positions[2] = LENGTH  # would be position 0 of the next slot
    if device.type == "cpu":
        with pytest.raises(ValueRangeError, match="positions"):
            kv_write(k, v, cache_k, cache_v, slots, positions)
        return
    kept = torch.tensor([0, 1, 3], device=device)
    kv_write(k, v, cache_k, cache_v, slots, positions)
    kv_write_reference(k[kept], v[kept], before, cache_v.clone(), slots[kept], positions[kept])
    assert torch.equal(bits(cache_k), bits(before))


def test_misuse_raises_before_launch(generator, device):
    k, v, cache_k, cache_v, slots, positions = make(4, generator, device)
    with pytest.raises(DtypeError, match="cache_k"):
        kv_write(k, v, cache_k.float(), cache_v, slots, positions)
    with pytest.raises(ShapeError, match="cache_v"):
        kv_write(k, v, cache_k, cache_v[:, :, :1], slots, positions)
    with pytest.raises(ShapeError, match="contiguous"):
        kv_write(k.transpose(1, 2).contiguous().transpose(1, 2), v, cache_k, cache_v, slots, positions)
    with pytest.raises(ShapeError, match="positions"):
        kv_write(k, v, cache_k, cache_v, slots, positions[:3])


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 5000])
def test_launch_covers(rows):
    assert not kv_write_launch(n_rows=rows, n_columns=128).truncated
