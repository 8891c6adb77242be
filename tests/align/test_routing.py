"""Is a different order of slots told from a different choice, and is the margin the one that had to be overcome?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.align import route
from parity.errors import ShapeError

LOGITS = np.array([[4.0, 3.0, 2.75, 0.0, -1.0]])


def one(oracle, sut):
    return route(oracle_ids=np.array([oracle]), sut_ids=np.array([sut]), router_logits=LOGITS)


def test_same_set_in_another_order_is_no_flip():
    got = one([0, 1], [1, 0])
    assert got.slot.tolist() == [[1, 0]]
    assert (got.overlap[0], got.flipped[0], got.margin[0]) == (2, False, 0.0)
    assert got.reorder(torch.tensor([[10.0, 20.0]])).tolist() == [[20.0, 10.0]]


def test_near_tie_and_wrong_expert_differ_in_margin():
    assert one([0, 1], [0, 2]).margin[0] == 0.25
    assert one([0, 1], [4, 0]).margin[0] == 4.0
    both = one([0, 1], [2, 3])
    assert both.margin[0] == 4.0  # the worst exchange: 4.0 left out, 0.0 taken
    assert both.overlap[0] == 0
    assert not both.matched.any()


@pytest.mark.parametrize("sut", [[0, 0], [0, 5], [0, -1], [2, 2]])
def test_choices_that_no_score_explains_have_an_infinite_margin(sut):
    got = one([0, 1], sut)
    assert got.flipped[0]
    assert got.margin[0] == np.inf


def test_without_logits_the_margin_of_a_flip_is_unknown():
    got = route(oracle_ids=np.array([[0, 1], [0, 1]]), sut_ids=np.array([[0, 1], [0, 2]]))
    assert got.margin[0] == 0
    assert np.isnan(got.margin[1])


def test_matching_is_by_expert_for_many_tokens():
    rng = np.random.default_rng(0)
    a = np.stack([rng.permutation(12)[:4] for _ in range(200)])
    b = np.stack([rng.permutation(12)[:4] for _ in range(200)])
    got = route(oracle_ids=a, sut_ids=b, router_logits=rng.normal(size=(200, 12)))
    for t in range(200):
        assert got.overlap[t] == len(set(a[t]) & set(b[t]))
        assert sorted(got.source[t]) == [0, 1, 2, 3]
        assert got.flipped[t] == (set(a[t]) != set(b[t]))
        for s in range(4):
            assert (b[t, got.slot[t, s]] == a[t, s]) if got.matched[t, s] else (a[t, s] not in b[t])


def test_no_tokens_and_other_shapes():
    empty = np.zeros((0, 2), int)
    assert route(oracle_ids=empty, sut_ids=empty, router_logits=np.zeros((0, 5))).flipped.shape == (0,)
    with pytest.raises(ShapeError):
        route(oracle_ids=np.zeros((2, 2), int), sut_ids=np.zeros((2, 3), int))
