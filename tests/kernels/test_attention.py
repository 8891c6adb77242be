"""Does every query row see exactly its own past, in its own slot, through its own kv head?"""

from __future__ import annotations

import parity_kernels.backend  # noqa: F401  isort: skip

import pytest
import torch

from parity.errors import DtypeError, ShapeError, ValueRangeError
from parity_kernels.attention.launch import attention_decode_launch, attention_prefill_launch
from parity_kernels.attention.op import attention_decode, attention_prefill
from parity_kernels.attention.reference import attention_reference

U = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
ULP_FP32 = 2.0**-23


class Case:
    """Requests (cached positions, new rows), each in a slot of a cache that is NaN wherever nothing was written."""

    def __init__(self, requests, heads, kv_heads, head_dim, generator, device, dtype=torch.bfloat16):
        rows = [new for _, new in requests]
        length = max(old + new for old, new in requests) + 3
        slots = torch.randperm(len(requests) + 2, generator=generator)[: len(requests)]
        shape = (len(requests) + 2, length, kv_heads, head_dim)
        self.k, self.v = (torch.full(shape, float("nan"), dtype=dtype) for _ in range(2))
        for slot, (old, new) in zip(slots.tolist(), requests, strict=True):
            for cache in (self.k, self.v):
                values = torch.randn(old + new, kv_heads, head_dim, generator=generator)
                cache[slot, : old + new] = values.to(dtype)
        self.k, self.v = self.k.to(device), self.v.to(device)
        self.q = torch.randn(sum(rows), heads, head_dim, generator=generator).to(dtype).to(device)
        self.row_start = torch.tensor([0, *rows]).cumsum(0).to(torch.int32).to(device)
        self.slots = slots.to(torch.int32).to(device)
        self.first = torch.tensor([old for old, _ in requests], dtype=torch.int32, device=device)
        self.max_rows, self.max_context = max(rows), length - 3
        self.scale = head_dim**-0.5

    def layout(self):
        return {"row_start": self.row_start, "slots": self.slots, "first_position": self.first, "scale": self.scale}

    def prefill(self, **changes):
        sizes = {"max_rows": self.max_rows, "max_context": self.max_context}
        return attention_prefill(self.q, self.k, self.v, **{**self.layout(), **sizes, **changes})

    def decode(self, **changes):
        where = {"slots": self.slots, "positions": self.first, "max_context": self.max_context, "scale": self.scale}
        return attention_decode(self.q, self.k, self.v, **{**where, **changes})

    def want(self, **changes):
        return attention_reference(self.q, self.k, self.v, **{**self.layout(), **changes})

    def bound(self):
        """Rounding P to the working dtype moves the sum by u of sum p |v|, as does the last rounding of the output; a
        score is off by K + 1 ulp of scale sum |q| |k|, which moves P and the row sum by twice that; sums over the
        context, exp and the rescaling of the running maximum add an ulp a term or a step."""
        layout = {"row_start": self.row_start, "slots": self.slots, "first_position": self.first}
        magnitude = attention_reference(self.q, self.k, self.v.abs(), **layout, scale=self.scale)
        head_dim = self.q.shape[2]
        largest = self.scale * head_dim * float(self.q.abs().max()) * float(self.k.nan_to_num().abs().max())
        score = (head_dim + 1) * ULP_FP32 * largest
        u = U[self.q.dtype]
        return u * self.want().abs() + (u + 4 * score + (2 * self.max_context + 256) * ULP_FP32) * 1.05 * magnitude

    def poison(self):
        return torch.full_like(self.q, float("nan"))


# (cached, new) a request: one row; around the compiled row tile (128, at head dim 256: 64) and key tile (64); a request
# without rows; chunks on top of a cached prefix that ends inside a tile.
PACKED = {
    "one": [(0, 1)],
    "around_tiles": [(0, 127), (0, 128), (0, 129), (0, 63), (0, 65)],
    "chunked": [(37, 40), (64, 1), (0, 5), (129, 64)],
    "empty_among": [(3, 4), (9, 0), (0, 2)],
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(6, 2, 64), (4, 1, 128), (3, 3, 16), (7, 1, 32)])
def test_prefill_within_the_bound(packed, heads, kv_heads, head_dim, generator, device, beyond):
    case = Case(PACKED[packed], heads, kv_heads, head_dim, generator, device)
    out = case.poison()
    assert case.prefill(out=out) is out
    assert beyond(out, case.want(), case.bound()) == 0


@pytest.mark.parametrize("rows", [255, 256, 257, 513])
def test_prefill_around_the_interpreted_tiles(rows, generator, device, beyond):
    case = Case([(2, rows)], 2, 1, 16, generator, device)
    assert beyond(case.prefill(out=case.poison()), case.want(), case.bound()) == 0


@pytest.mark.parametrize("contexts", [[1], [63, 64, 65], [511, 513, 7]])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(6, 2, 64), (32, 4, 128), (20, 1, 16), (5, 5, 32)])
def test_decode_within_the_bound(contexts, heads, kv_heads, head_dim, generator, device, beyond):
    case = Case([(context - 1, 1) for context in contexts], heads, kv_heads, head_dim, generator, device)
    out = case.poison()
    assert case.decode(out=out) is out
    assert beyond(out, case.want(), case.bound()) == 0
    assert torch.equal(case.decode(positions=case.first.long()), out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_widest_head_and_fp16(dtype, generator, device, beyond):
    case = Case([(5, 66), (70, 1)], 2, 1, 256, generator, device, dtype)
    assert beyond(case.prefill(), case.want(), case.bound()) == 0
    case = Case([(5, 1), (70, 1)], 2, 1, 256, generator, device, dtype)
    assert beyond(case.decode(), case.want(), case.bound()) == 0


def test_no_rows(device):
    cache = torch.zeros(1, 8, 1, 16, dtype=torch.bfloat16, device=device)
    q = torch.empty(0, 2, 16, dtype=torch.bfloat16, device=device)
    none = torch.zeros(0, dtype=torch.int32, device=device)
    start = torch.zeros(1, dtype=torch.int32, device=device)
    sizes = {"max_context": 0, "scale": 1.0}
    assert attention_decode(q, cache, cache, slots=none, positions=none, **sizes).shape == (0, 2, 16)
    got = attention_prefill(q, cache, cache, row_start=start, slots=none, first_position=none, max_rows=0, **sizes)
    assert got.shape == (0, 2, 16)


def test_chunks_of_a_prompt_and_decode_agree_with_one_prefill(generator, device):
    """Key tiles start at position 0 whatever the chunk: what differs is the rounding of other tile shapes, within both
    bounds."""
    whole = Case([(0, 100)], 4, 2, 32, generator, device)
    out = whole.prefill()
    for first, stop in ((0, 33), (33, 99), (99, 100)):
        part = Case([(0, 100)], 4, 2, 32, generator, device)
        part.q, part.k, part.v, part.slots = whole.q[first:stop], whole.k, whole.v, whole.slots
        part.row_start = torch.tensor([0, stop - first], dtype=torch.int32, device=device)
        part.first = torch.tensor([first], dtype=torch.int32, device=device)
        part.max_rows = stop - first
        assert ((part.prefill().double() - out[first:stop].double()).abs() <= 2 * whole.bound()[first:stop]).all()
        last = part.decode() if stop - first == 1 else None
    assert last is not None
    assert ((last.double() - out[99:].double()).abs() <= 2 * whole.bound()[99:]).all()


def test_rows_do_not_depend_on_their_neighbours(generator, device):
    """The same request alone and packed with others, in the same tile shapes: bit for bit."""
    case = Case([(0, 40), (3, 50)], 4, 2, 32, generator, device)
    packed = case.prefill()
    case.q = case.q[:40]
    case.row_start, case.slots, case.first = case.row_start[:2], case.slots[:1], case.first[:1]
    assert torch.equal(case.prefill(), packed[:40])


def test_wrong_attention_would_be_seen(generator, device, beyond):
    """Planted defects: one position too few (its own key hidden), wrong scale, kv heads interleaved, wrong slot."""
    case = Case([(0, 40), (6, 30)], 4, 2, 32, generator, device)
    out, bound = case.prefill(), case.bound()
    assert beyond(out, case.want(scale=case.scale * 1.05), bound) > 0.1 * out.numel()
    interleaved = attention_reference(case.q[:, [0, 2, 1, 3]], case.k, case.v, **case.layout())[:, [0, 2, 1, 3]]
    assert beyond(out, interleaved, bound) > 0.4 * out.numel()
    assert beyond(out[:40], case.want(slots=case.slots.flip(0))[:40], bound[:40]) > 0.9 * 40 * 128
    earlier = case.want(first_position=(case.first - 1).clamp_min(0))
    assert beyond(out[40:], earlier[40:], bound[40:]) > 0.5 * 30 * 128


def test_strided_heads_rows_and_caches(generator, device):
    case = Case([(0, 9), (4, 3)], 4, 2, 16, generator, device)
    want = case.prefill()
    fused = torch.cat([case.q, case.q[:, :1]], dim=1)  # q as a slice of a fused projection
    case.q = fused[:, :4]
    case.k = torch.stack([case.k, case.v], dim=2)[:, :, 0]  # k and v interleaved in one cache
    assert torch.equal(case.prefill(), want)


def test_misuse_raises_before_launch(generator, device):
    case = Case([(0, 4), (2, 3)], 4, 2, 16, generator, device)
    with pytest.raises(ShapeError, match="head dim"):
        attention_prefill(case.q[..., :12].contiguous(), case.k, case.v, **case.layout(), max_rows=4, max_context=5)
    with pytest.raises(ShapeError, match="multiple of the kv heads"):
        attention_prefill(case.q[:, :3].contiguous(), case.k, case.v, **case.layout(), max_rows=4, max_context=5)
    with pytest.raises(ShapeError, match="positions"):
        case.prefill(max_context=99)
    with pytest.raises(DtypeError, match="cache_v"):
        attention_prefill(case.q, case.k, case.v.float(), **case.layout(), max_rows=4, max_context=5)
    with pytest.raises(ShapeError, match="row_start"):
        case.prefill(row_start=case.row_start[:2])
    with pytest.raises(DtypeError, match="slots"):
        case.prefill(slots=case.slots.long())
    if device.type == "cpu":
        with pytest.raises(ValueRangeError, match="slots"):
            case.prefill(slots=case.slots + 4)


@pytest.mark.parametrize("rows", [1, 127, 129, 1000])
def test_launch_covers(rows):
    assert not attention_prefill_launch(max_rows=rows, n_heads=4, n_requests=2, head_dim=64).truncated
    assert not attention_decode_launch(n_requests=2, n_heads=20, n_kv_heads=1, head_dim=64).truncated
