"""Are runs that must not be compared refused with the reason, and are rows intersected with the rest counted?"""

from __future__ import annotations

from dataclasses import replace

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


def test_a_run_with_replaced_tensors_is_no_evidence(build):
    oracle = build.run({"a": (1,)})
    grafted = replace(oracle, flags={"grafts": ["L01.moe.gate", [None, "embed.out"]]})
    for sides in ((oracle, grafted), (grafted, oracle)):
        with pytest.raises(TraceError, match=r"replaced at L01\.moe\.gate, embed\.out.*without grafts"):
            pair_requests(oracle=sides[0], sut=sides[1], same_model_because="it is")
        assert pair_requests(oracle=sides[0], sut=sides[1], allow_grafts=True) == [(0, 0)]
    assert pair_requests(oracle=oracle, sut=replace(oracle, flags={"grafts": []})) == [(0, 0)]


@pytest.mark.parametrize("told", ["all", 7, {"L00": 1}, [[1, 2, 3]], [["x", "moe.gate"]]])
def test_grafts_in_any_spelling_are_refused(build, told):
    oracle = build.run({"a": (1,)})
    with pytest.raises(TraceError, match=r"flags\.grafts of the SUT"):
        pair_requests(oracle=oracle, sut=replace(oracle, flags={"grafts": told}))


def test_models_of_another_depth_are_refused_whatever_the_reason(build):
    oracle = build.run({"a": (1,)})
    with pytest.raises(TraceError, match="layers of the two models"):
        pair_requests(oracle=oracle, sut=replace(oracle, layers=oracle.layers + 1), same_model_because="pruned")


def test_another_family_needs_a_reason(build):
    oracle = build.run({"a": (1,)})
    with pytest.raises(TraceError, match="stage graph"):
        pair_requests(oracle=oracle, sut=replace(oracle, family="llama"))
    assert pair_requests(oracle=oracle, sut=replace(oracle, family="llama"), same_model_because="one code") == [(0, 0)]
