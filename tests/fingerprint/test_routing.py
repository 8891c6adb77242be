"""Is a flip told from a near-tie by the very logits that it was chosen from?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parity.fingerprint import read_fingerprints
from parity.fingerprint.causes import ROUTER_NEAR_TIE, ROUTER_WRONG_IDS
from tests.fingerprint.plants import flipped_by_ties


@pytest.mark.parametrize(
    ("margin", "dtype", "cause"),
    [
        (0.0, torch.float32, ROUTER_NEAR_TIE),
        (2.0**-22, torch.float32, ROUTER_NEAR_TIE),
        (2.0**-18, torch.float32, ROUTER_WRONG_IDS),  # 64 units in the last place: no rounding of a softmax
        (2.0**-9, torch.bfloat16, ROUTER_NEAR_TIE),  # shown narrower than they may have been computed
        (2.0**-5, torch.bfloat16, ROUTER_WRONG_IDS),
    ],
)
def test_a_flip_is_a_near_tie_of_the_logits_that_it_was_chosen_from_or_none(lab, margin, dtype, cause):
    field = flipped_by_ties(lab(1), margin)
    logits = field.inputs["moe.router_logits"].to(dtype)
    (found,) = read_fingerprints(replace(field, inputs={"moe.router_logits": logits}))
    assert found.cause == cause
    # Logits that are not the ones chosen from have noise between them and the choice.
    related = replace(field, inputs={}, related={"moe.router_logits": field.inputs["moe.router_logits"]}, noise=0.05)
    (found,) = read_fingerprints(related)
    assert found.cause == ROUTER_NEAR_TIE


def test_one_wrong_choice_is_named_among_many_ties(lab):
    field = flipped_by_ties(lab(1))
    logits, ids = field.inputs["moe.router_logits"], field.sut.clone()
    ids[4, -1] = logits[4].argmin()
    (found,) = read_fingerprints(field.with_sut(ids))
    assert (found.cause, found.slice.positions) == (ROUTER_WRONG_IDS, (4, 5))
    assert found.numbers["near_ties"] == found.numbers["flipped_tokens"] - 1 > 3
    assert "1 of " in found.sentence
