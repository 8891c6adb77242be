"""Are values of the interpreter's front end what the stock one makes, when types and shapes are shared?"""

from __future__ import annotations

import numpy as np
import pytest

from parity_kernels.backend import interpreted

pytestmark = pytest.mark.skipif(not interpreted(), reason="the interpreter's own test")

if interpreted():
    import triton.language as tl
    from triton.language import core

    from parity_kernels.backend.blocks import widen


def test_equal_block_types_are_one_object_and_others_are_not():
    one = tl.block_type(tl.float32, [16, 32])
    assert one is tl.block_type(tl.float32, [core.constexpr(16), 32])
    others = [
        tl.block_type(tl.float32, [32, 16]),
        tl.block_type(tl.float32, [16]),
        tl.block_type(tl.bfloat16, [16, 32]),
        tl.block_type(tl.pointer_type(tl.float32), [16, 32]),
        tl.block_type(tl.pointer_type(tl.bfloat16), [16, 32]),
        tl.block_type(tl.pointer_type(tl.float32, const=True), [16, 32]),
    ]
    for number, other in enumerate(others):
        assert one != other
        assert all(other != another for another in others[number + 1 :])
    assert list(one.shape) == [16, 32]
    assert one.scalar is tl.float32


@pytest.mark.parametrize("shape", [[3], [16, 3], []])
def test_a_shape_that_is_refused_once_is_refused_again(shape):
    for _ in range(2):
        with pytest.raises((ValueError, TypeError)):
            tl.block_type(tl.float32, shape)


def test_values_of_one_type_have_its_shape_and_their_own_data():
    kind = tl.block_type(tl.int32, [4])
    first, second = (tl.tensor(data, kind) for data in ("a", "b"))
    assert (first.handle, second.handle) == ("a", "b")
    assert [extent.value for extent in first.shape] == [extent.value for extent in second.shape] == [4]
    assert first.numel.value == 4
    assert first.dtype is tl.int32
    scalar = tl.tensor("c", tl.int32)
    assert (len(scalar.shape), scalar.numel.value, scalar.type) == (0, 1, tl.int32)


@pytest.mark.parametrize("shape", [(4,), (1, 8), (64, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.uint64])
def test_one_element_is_widened_as_numpy_does_and_cannot_be_written_to(shape, dtype):
    value = np.ones((1,) * len(shape), dtype)
    wide = widen(value, shape)
    expected = np.broadcast_to(value, shape)
    assert (wide.shape, wide.dtype, wide.strides) == (expected.shape, expected.dtype, expected.strides)
    np.testing.assert_array_equal(wide, expected)
    with pytest.raises(ValueError, match="read-only"):
        wide[0] = 0
