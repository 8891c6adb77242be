"""Are runs that must not be compared refused with the reason, and are rows intersected with the rest counted?"""

from __future__ import annotations

import pytest
import torch

from parity.align import align, pair_requests, pair_rows
from parity.errors import TraceError


def test_first_different_id_is_shown(build):
    with pytest.raises(
        TraceError, match=r"'a': .* position 2: oracle \[1, 2, 3, 4\] and sut \[1, 2, 9, 4\] from position 0"
    ):
        pair_requests(oracle=build.run({"a": (1, 2, 3, 4)}), sut=build.run({"a": (1, 2, 9, 4)}))


def test_a_prefix_is_a_difference_at_its_end(build):
    with pytest.raises(TraceError, match=r"position 2: .*\(3 and 2 ids\)"):
        pair_requests(oracle=build.run({"a": (1, 2, 3)}), sut=build.run({"a": (1, 2)}))


def test_ids_are_looked_at_before_the_lineage(build):
    with pytest.raises(TraceError, match="token ids"):
        pair_requests(oracle=build.run({"a": (1,)}), sut=build.run({"a": (2,)}, root="other"))


def test_unrelated_checkpoints_need_a_reason(build):
    oracle, sut = build.run({"a": (1,)}), build.run({"a": (1,)}, root="other")
    with pytest.raises(TraceError, match="lineage"):
        pair_requests(oracle=oracle, sut=sut)
    assert pair_requests(oracle=oracle, sut=sut, same_model_because="re-exported by hand, hashes of tensors equal") == [
        (0, 0)
    ]


def test_requests_pair_by_name_in_any_order(build):
    oracle, sut = build.run({"a": (1,), "b": (2,)}), build.run({"b": (2,), "a": (1,)})
    assert pair_requests(oracle=oracle, sut=sut) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("of_oracle", "of_sut"), [({"a": (1,)}, {"b": (1,)}), ({"a": (1,), "b": (1,)}, {"a": (1,)}), ({}, {})]
)
def test_other_names_and_no_requests_are_refused(build, of_oracle, of_sut):
    with pytest.raises(TraceError, match="same names"):
        pair_requests(oracle=build.run(of_oracle), sut=build.run(of_sut))


def test_positions_intersect_and_the_rest_is_counted(build):
    def aligned(positions):
        value = torch.ones(len(positions), 2)
        return align(build.trace([(build.capture(0, "attn.norm", value, positions), value)]), "attn.norm", 0, 0)

    oracle, sut = aligned(range(0, 10)), aligned(range(7, 12))
    assert oracle is not None
    assert sut is not None
    of_oracle, of_sut, alone = pair_rows(oracle=oracle, sut=sut)
    assert oracle.position[of_oracle].tolist() == sut.position[of_sut].tolist() == [7, 8, 9]
    assert alone == 9
