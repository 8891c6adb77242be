"""Are rows at the end of the same tokens counted for what they are worth, and all others in full?"""

from __future__ import annotations

import numpy as np
import pytest

from parity.floor.bins import bin_ranges
from parity.metrics import column_edges, contexts, fold_moments, independent_rows, of_slot
from parity.metrics.repeats import REACH
from parity.metrics.slices import tables_of

torch = pytest.importorskip("torch")


def of(ids: list[int]) -> float:
    return independent_rows(contexts(np.array(ids, np.int64)))


@pytest.mark.parametrize("length", [0, 1, REACH - 1, REACH, REACH + 1, 500])
def test_text_without_repeats_keeps_its_rows(length: int):
    ids = np.random.default_rng(0).permutation(10_000)[:length]
    assert of(ids.tolist()) == length


def test_tokens_of_a_small_vocabulary_are_no_repeats():
    assert of(np.random.default_rng(1).integers(0, 7, 2000).tolist()) == 2000


@pytest.mark.parametrize("period", [1, 2, 5, 61])
@pytest.mark.parametrize("token", [0, 9000])
def test_a_loop_counts_about_as_often_as_its_period(period: int, token: int):
    found = of(([token + k for k in range(period)] * 1000)[:1000])
    assert period <= found <= period * 1.1


def test_a_loop_after_text_weighs_as_its_share():
    """150 rows of text and 300 equal ones: a mean as uncertain as that of 450^2 / (300^2 + 150), but for the first."""
    text = np.random.default_rng(2).permutation(10_000)[:150].tolist()
    assert of([*text, *[3] * 300]) == pytest.approx(450**2 / ((300 - REACH + 1) ** 2 + 150 + REACH - 1))


def test_boilerplate_within_a_text_changes_nothing():
    text = np.random.default_rng(3).permutation(10_000)[:400].tolist()
    assert of([*text, *text[100:150]]) == 450


def test_the_first_positions_are_told_from_a_token_of_their_own():
    found = contexts(np.zeros(40, np.int64))
    assert len(set(found[:REACH].tolist())) == REACH
    assert len(set(found[REACH - 1 :].tolist())) == 1


def test_two_equal_requests_are_one():
    one = contexts(np.random.default_rng(4).integers(0, 500, 64))
    assert independent_rows(np.concatenate([one, one])) == 128 * 128 / (64 * 4)


def test_unknown_rows_repeat_none_and_slots_are_apart():
    assert independent_rows(np.zeros(50, np.uint64)) == 50
    context = contexts(np.full(64, 5))
    slots = np.repeat(context, 2), np.tile([0, 1], 64)
    assert independent_rows(of_slot(*slots)) == pytest.approx(2 * independent_rows(context), rel=0.2)
    assert not of_slot(np.zeros(3, np.uint64), np.arange(3)).any()


def test_slices_of_a_loop_share_the_bins_of_few_rows():
    """Two experts: one has the loop, the other text. Rows are judged one by one as ever."""
    values = torch.randn((256, 256), generator=torch.Generator().manual_seed(0))
    columns = column_edges(("F",), (256,))
    moments, across = fold_moments(oracle=values, sut=values + 1, edges=columns.edges)
    loop = np.concatenate([np.random.default_rng(5).permutation(1000)[:128], np.full(128, 2000)])
    expert = np.repeat([4, 7], 128)
    tables = tables_of(
        rows=moments, across=across[0], columns=columns, index=np.arange(256), experts=expert, context=contexts(loop)
    )
    sizes = {table.kind: bin_ranges(table, table.kind, np.arange(256))[1].tolist() for table in tables}
    assert sizes["expert"] == [7, 0]
    assert sizes["tensor"] == [2]
    assert sizes["columns"] == [2, 2]
    assert set(sizes["row"]) == {-1}
    assert {table.kind: table.rows.tolist() for table in tables}["expert"] == [128, 128]
