"""Which verdict does each of sixty more pairs get that were built to fool a comparator?

Each was written with its verdict before it was run. `wrong` must be called a divergence; `unclear` must not be cleared
(wrong, or beyond what the bound can tell); `right` must be cleared: honest results that look sick.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from parity.compare import Outcome, compare_files, show_outcome
from parity.floor import derive_floor
from parity.records import Comparison, Summary

T = torch.Tensor
Pair = tuple[T, T]
BF16, F16, F32, F64, E4M3, E5M2 = (
    torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
PAIRS: list[tuple[str, str, str, Callable[[], Pair]]] = []
NOISE = 20 * 2.0**-24
"""Accumulation of some thousand terms in fp32, relative to a row's root mean square."""


def pair(expected: str, floor: str = "bfloat16"):
    def keep(make: Callable[[], Pair]) -> Callable[[], Pair]:
        PAIRS.append((make.__name__, expected, floor, make))
        return make

    return keep


def noise(*shape: int, seed: int = 0) -> T:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def honest(exact: T, dtype: torch.dtype = BF16, seed: int = 5) -> T:
    size = exact.square().mean(-1, keepdim=True).sqrt()
    return (exact + NOISE * size * noise(*exact.shape, seed=seed)).to(dtype)


def planted(plant: Callable[[T], T], exact: T | None = None, dtype: torch.dtype = BF16) -> Pair:
    """An honest oracle, and a SUT that is honest about `plant` of the same values."""
    x = noise(64, 384) if exact is None else exact
    return honest(x, dtype, 1), honest(plant(x.clone()), dtype, 2)


def put(x: T, at: object, value: T | float) -> T:
    x[at] = value  # type: ignore[index]
    return x


@pair("wrong")
def rows_of_equal_norm_permuted():
    x = noise(64, 384)
    return planted(
        lambda v: v[torch.randperm(64, generator=torch.Generator().manual_seed(1))], x / x.norm(dim=1)[:, None]
    )


@pair("wrong")
def signs_of_one_head_flipped():
    return planted(lambda v: put(v, np.s_[:, 64:128], -v[:, 64:128]))


@pair("wrong")
def every_row_sorted():
    return planted(lambda v: v.sort(-1).values)


@pair("wrong")
def one_row_reversed():
    return planted(lambda v: put(v, 17, v[17].flip(0)))


@pair("wrong")
def shifted_by_one_column():
    return planted(lambda v: v.roll(1, -1))


@pair("wrong")
def shifted_by_one_row():
    return planted(lambda v: v.roll(1, 0))


@pair("wrong")
def two_halves_of_a_head_swapped():
    return planted(lambda v: put(v, np.s_[:, :64], v[:, :64].roll(32, -1)))


@pair("wrong")
def experts_of_equal_norm_swapped():
    x = noise(64, 384)
    x[:16] *= x[16:32].norm() / x[:16].norm()
    return planted(lambda v: torch.cat([v[16:32], v[:16], v[32:]]), x)


@pair("wrong")
def a_row_written_twice():
    return planted(lambda v: put(v, 40, v[41]))


@pair("wrong")
def equal_and_opposite_errors_in_one_row():
    return planted(lambda v: put(v, (3, slice(0, 2)), v[3, :2] + torch.tensor([0.1, -0.1], dtype=F64)))


@pair("wrong")
def errors_that_cancel_over_the_rows():
    sign = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0).double()[:, None]
    return planted(lambda v: v * (1 + 0.004 * sign), noise(64, 4096))


@pair("wrong")
def errors_that_cancel_over_the_columns():
    sign = torch.where(torch.arange(384) % 2 == 0, 1.0, -1.0).double()
    return planted(lambda v: v * (1 + 0.004 * sign), noise(512, 384))


@pair("wrong")
def a_head_scaled_by_half_a_rounding():
    return planted(lambda v: put(v, np.s_[:, 128:256], v[:, 128:256] * 1.002), noise(4096, 384))


@pair("wrong")
def correlated_error_of_a_rounding_in_one_head():
    return planted(lambda v: put(v, np.s_[:, :128], v[:, :128] + 0.003 * v[:, :128].abs()), noise(2048, 384))


@pair("wrong")
def a_rank_one_error_below_each_element():
    return planted(
        lambda v: v + 0.012 * torch.outer(noise(64, seed=3).sign(), noise(4096, seed=4).sign()), noise(64, 4096)
    )


@pair("wrong")
def the_mean_of_each_row_moved():
    return planted(lambda v: v + 0.02)


@pair("wrong")
def one_row_of_a_hundred_thousand():
    x = torch.ones(100_000, 2, dtype=BF16)
    return x, put(x.clone(), 77_777, 1.25)


@pair("wrong")
def the_last_column_of_an_odd_width():
    return planted(lambda v: put(v, np.s_[:, -1], v[:, -1] * 1.02), noise(2048, 257))


@pair("wrong")
def a_tiny_slice_of_a_large_tensor():
    return planted(lambda v: put(v, np.s_[1000:1002, 900:904], 0.0), noise(2048, 1024))


@pair("wrong")
def the_first_element_alone():
    return planted(lambda v: put(v, (0, 0), v[0, 0] + 0.5), noise(1024, 1024))


@pair("wrong")
def one_element_of_one():
    return torch.tensor([1.0]).to(BF16), torch.tensor([1.05]).to(BF16)


@pair("wrong")
def no_dimension_at_all():
    return torch.tensor(2.0), torch.tensor(2.1)


@pair("unclear")
def nothing_on_both_sides():
    return torch.zeros(0, 4), torch.zeros(0, 4)


@pair("wrong")
def nothing_of_another_width():
    return torch.zeros(0, 4), torch.zeros(0, 8)


@pair("wrong")
def one_row_that_would_broadcast():
    return noise(8, 16).to(BF16), noise(1, 16).to(BF16)


@pair("wrong")
def one_dimension_more():
    return noise(8, 16).to(BF16), noise(1, 8, 16).to(BF16)


@pair("wrong")
def a_row_repeated_by_a_stride_of_zero():
    x = noise(64, 384)
    return honest(x), honest(x[:1].expand(64, 384))


@pair("wrong")
def columns_read_with_a_stride_of_two():
    x = noise(64, 768)
    return honest(x[:, :384]), honest(x[:, ::2])


@pair("wrong")
def transposed_in_blocks():
    return planted(lambda v: v.reshape(8, 8, 384).transpose(0, 1).reshape(64, 384))


@pair("unclear")
def nan_in_the_same_places():
    x = put(noise(64, 384), (5, 7), float("nan"))
    return x.to(BF16), x.to(BF16)


@pair("unclear")
def nan_everywhere():
    x = torch.full((8, 8), float("nan"))
    return x, x.clone()


@pair("wrong")
def infinities_of_both_signs():
    x = put(noise(8, 256), (1, 1), float("inf"))
    return x.to(BF16), put(x.clone(), (1, 1), -float("inf")).to(BF16)


@pair("unclear")
def infinities_that_hide_a_wrong_row():
    x = put(noise(8, 256), np.s_[:, 0], float("inf"))
    return x.to(BF16), put(x.clone(), np.s_[3, 1:], 0.0).to(BF16)


@pair("wrong")
def overflow_on_one_side():
    return put(noise(8, 256), (2, 2), 3e38).to(F32), put(noise(8, 256), (2, 2), float("inf")).to(F32)


@pair("wrong")
def nan_where_the_oracle_has_infinity():
    x = put(noise(8, 256), (2, 2), float("inf"))
    return x.to(F32), put(x.clone(), (2, 2), float("nan")).to(F32)


@pair("right")
def zeros_of_either_sign():
    x = put(noise(8, 256), (2, 2), 0.0).to(BF16)
    return x, put(x.clone(), (2, 2), -0.0)


@pair("wrong")
def zeros_and_a_little_noise():
    return torch.zeros(8, 256, dtype=BF16), (1e-6 * noise(8, 256)).to(BF16)


@pair("wrong")
def one_element_out_of_zeros():
    return torch.zeros(64, 256, dtype=BF16), put(torch.zeros(64, 256, dtype=BF16), (63, 255), 1e-20)


@pair("unclear")
def subnormals_flushed():
    x = (noise(64, 256) * 2.0**-130).to(F32)
    return x, torch.zeros_like(x)


@pair("unclear")
def a_row_of_subnormals_flushed():
    x = noise(64, 256)
    x[7] *= 2.0**-140
    return x.to(F32), put(x.clone(), 7, 0.0).to(F32)


@pair("wrong")
def a_constant_and_another():
    return torch.full((64, 256), 3.0, dtype=BF16), torch.full((64, 256), 3.0 * 1.016, dtype=BF16)


@pair("wrong")
def a_constant_with_one_row_off():
    x = torch.full((64, 256), 3.0, dtype=BF16)
    return x, put(x.clone(), 9, 3.0625)


@pair("wrong")
def a_ramp_moved_by_one():
    x = torch.arange(4096, dtype=F64).reshape(16, 256) / 64
    return x.to(BF16), (x + 1 / 8).to(BF16)


@pair("wrong", "float32")
def bf16_under_an_fp32_label():
    x = noise(64, 384)
    return x.to(F32), x.to(BF16).to(F32)


@pair("unclear", "float32")
def fp16_under_an_fp32_label():
    x = noise(64, 384)
    return x.to(F32), x.to(F16).to(F32)


@pair("wrong", "float16")
def bf16_under_an_fp16_label():
    x = noise(64, 384)
    return x.to(F16), x.to(BF16).to(F16)


@pair("wrong")
def e4m3_under_a_bf16_label():
    x = noise(64, 384)
    return x.to(BF16), x.to(E4M3).to(BF16)


@pair("wrong", "float8_e4m3fn")
def e5m2_under_an_e4m3_label():
    x = noise(256, 384)
    return x.to(E4M3), x.to(E5M2).float().to(E4M3)


@pair("wrong")
def bytes_of_bf16_read_as_fp16():
    x = noise(64, 384).to(BF16)
    return x, x.view(F16)


@pair("wrong")
def bytes_in_the_other_order():
    x = noise(64, 384).to(BF16)
    return x, x.view(torch.uint8).reshape(64, 384, 2).flip(-1).reshape(64, 768).view(BF16).nan_to_num(0.0)


@pair("right")
def fp64_against_fp32():
    x = noise(64, 384)
    return x, x.to(F32)


@pair("right")
def fp32_against_its_bf16():
    x = noise(64, 384)
    return x.to(F32), x.to(BF16)


@pair("wrong")
def integers_off_by_one_past_2_to_the_53():
    x = torch.arange(2**53, 2**53 + 64)
    return x, put(x.clone(), 13, x[13] + 1)


@pair("right")
def integers_of_other_widths():
    return torch.arange(100), torch.arange(100).to(torch.int16)


@pair("wrong")
def integers_that_wrapped():
    return torch.tensor([200, 300]), torch.tensor([200, 300]).to(torch.uint8)


@pair("wrong")
def integers_under_a_floating_label():
    return torch.arange(100).float(), torch.arange(100)


@pair("wrong")
def one_flag_of_many():
    flags = noise(100, 100) > 0
    return flags, put(flags.clone(), (99, 99), ~flags[99, 99])


@pair("wrong")
def flags_as_numbers():
    flags = noise(8, 8) > 0
    return flags, flags.to(torch.int8)


@pair("wrong")
def complex_parts_swapped():
    x = torch.view_as_complex(noise(8, 64, 2).float().contiguous())
    return x, torch.view_as_complex(torch.view_as_real(x).flip(-1).contiguous())


@pair("unclear")
def a_small_block_beside_a_block_of_giants_in_one_row():
    x = noise(64, 1024)
    x[9, :128] *= 1e5
    return planted(lambda v: put(v, np.s_[9, 256:384], 0.0), x)


@pair("unclear")
def a_small_block_beside_a_block_of_giants_in_all_rows():
    x = noise(64, 1024)
    x[:, :128] *= 1e6
    wrong = put(x.clone(), np.s_[:, 256:384], x[:, 256:384] * 1.05)
    return x.to(BF16), wrong.to(BF16)


@pair("unclear")
def a_head_beside_a_giant_head_in_the_same_block():
    x = noise(64, 128)
    x[:, :64] *= 1e6
    return x.to(BF16), put(x.clone(), np.s_[:, 64:], x[:, 64:].roll(1, 0)).to(BF16)


@pair("unclear")
def neighbours_of_one_giant_in_one_row():
    x = noise(64, 384)
    x[20, 7] = 1e6
    return x.to(BF16), put(x.clone(), np.s_[20, 8:64], 0.0).to(BF16)


@pair("right")
def giants_and_small_blocks_each_honest():
    x = noise(64, 1024)
    x[:, :128] *= 1e5
    x[9, 300] = 1e7
    return x.to(BF16), (x * (1 + 1e-6 * noise(64, 1024, seed=3))).to(BF16)


@pair("right")
def heavy_tails():
    x = torch.from_numpy(np.random.default_rng(0).standard_cauchy((512, 384)))
    return honest(x, BF16, 1), honest(x, BF16, 2)


@pair("right", "float32")
def heavy_tails_in_fp32():
    x = torch.from_numpy(np.random.default_rng(1).standard_t(2, (512, 384)))
    return honest(x, F32, 1), honest(x, F32, 2)


def test_there_are_sixty_of_them():
    assert len(PAIRS) >= 60
    assert len({name for name, *_ in PAIRS}) == len(PAIRS)


@pytest.fixture
def compared(tmp_path):
    def of(oracle: T, sut: T, floor: str | None) -> Comparison:
        paths = {side: tmp_path / f"{side}.safetensors" for side in ("oracle", "sut")}
        for side, tensor in (("oracle", oracle), ("sut", sut)):
            save_file({"x": tensor.contiguous().clone()}, paths[side])
        (record,) = compare_files(**paths, floor=derive_floor(floor) if floor else None).comparisons
        return record

    return of


@pytest.mark.parametrize(("expected", "floor", "make"), [p[1:] for p in PAIRS], ids=[p[0] for p in PAIRS])
def test_verdicts(compared, expected, floor, make):
    oracle, sut = make()
    for one, other in ((oracle, sut), (sut, oracle)):
        record = compared(one, other, floor)
        if expected == "right":
            assert record.verdict.healthy, record.reason
        elif expected == "wrong":
            assert record.verdict.faulty, (record.verdict, record.reason)
        else:
            assert not record.verdict.healthy, record.verdict
        assert compared(one, other, None).verdict.healthy == (record.verdict.value == "MATCH")


def test_a_block_that_was_not_cleared_is_named_in_the_table(compared):
    x = noise(64, 1024)
    x[9, :128] *= 1e5
    record = compared(*planted(lambda v: put(v, np.s_[9, 256:384], 0.0), x), "bfloat16")
    assert record.verdict.value == "NO_POWER"
    assert record.whole["rows_beside"] == 1
    console = Console(width=140, record=True, file=io.StringIO())
    show_outcome(Outcome(Summary(("x",), (record,)), derive_floor("bfloat16")), console)
    said = " ".join(console.export_text().split())
    assert "columns 256..384 of row 9 differ by" in said
    assert Outcome(Summary(("x",), (record,)), derive_floor("bfloat16")).exit_code == 2
