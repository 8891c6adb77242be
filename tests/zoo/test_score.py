"""The rule of docs/zoo.md, line by line, each with a finding that it must refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parity.errors import UsageError
from parity.faults import Fault
from parity.metrics.interval import wilson
from parity.records import Finding, Power, Site, Slice
from parity.stages import QWEN3_MOE
from parity.zoo.accepted import accepted_places
from parity.zoo.interval import Rate
from parity.zoo.score import below_power, score_finding, within_slice

EVERYTHING = tuple(stage.name for _, stage in QWEN3_MOE.sites(1))
TRUTH = Fault(
    name="planted",
    family="qwen3_moe",
    summary="",
    truth=Site((1, 2), "moe.gate", Slice(experts=(3, 5), rows=tuple(range(64, 128)))),
    also=(Site((1, 2), "moe.down"),),
    cause="constant ratio",
)
RIGHT = Finding(
    "fault",
    "isolated replay",
    layers=(1,),
    stage="moe.gate",
    slice=Slice(experts=(3,), rows=(64, 70)),
    cause="constant ratio",
    proof={"proved": True},
)


def judge(finding: Finding | None, fault: Fault = TRUTH, stages: tuple[str, ...] = EVERYTHING):
    return score_finding(finding, fault, stages=stages, layers=4)


def test_a_right_finding_has_every_column():
    score = judge(RIGHT)
    assert (score.detected, score.localized, score.sliced, score.cause_named, score.proved) == (True,) * 5


@pytest.mark.parametrize("verdict", ["clean", "unresolved"])
def test_what_does_not_accuse_scores_nothing(verdict: str):
    score = judge(replace(RIGHT, verdict=verdict))
    assert (score.detected, score.localized, score.sliced, score.cause_named, score.proved) == (False,) * 5
    assert judge(None) == score


@pytest.mark.parametrize(
    ("change", "localized"),
    [
        ({"layers": (1, 2)}, True),
        ({"layers": (1, 3)}, False),
        ({"layers": (0,)}, False),
        ({"layers": ()}, False),
        ({"stage": "moe.down"}, True),
        ({"stage": "moe.up"}, False),
        ({"stage": "mlp.norm"}, False),
        ({"stage": None}, False),
    ],
)
def test_stage_and_layers(change: dict, localized: bool):
    score = judge(replace(RIGHT, **change))
    assert score.localized is localized
    assert score.detected


def test_no_layers_in_a_truth_mean_every_layer():
    everywhere = replace(TRUTH, truth=Site((), "moe.gate"), also=())
    assert judge(replace(RIGHT, layers=(0, 3)), everywhere).localized
    assert not judge(replace(RIGHT, layers=(0, 4)), everywhere).localized
    assert not judge(replace(RIGHT, layers=()), everywhere).localized


def test_a_stage_outside_the_layers_has_no_layers():
    norm = replace(TRUTH, truth=Site((), "final_norm"), also=())
    assert judge(replace(RIGHT, layers=(), stage="final_norm"), norm).localized
    assert not judge(replace(RIGHT, layers=(3,), stage="final_norm"), norm).localized


def test_an_uncaptured_stage_is_stood_for_by_the_first_that_reads_it():
    def places(truth: Site, *missing: str) -> set:
        shown = set(EVERYTHING) - set(missing)
        return accepted_places(truth, graph=QWEN3_MOE, layers=4, captured=shown)

    assert places(Site((1,), "moe.up"), "moe.up") == {(1, "moe.act")}
    assert places(Site((1,), "moe.up"), "moe.up", "moe.act") == {(1, "moe.down")}
    assert places(Site((1,), "resid.out"), "resid.out") == {(2, "attn.norm")}
    assert places(Site((3,), "resid.out"), "resid.out") == {(None, "final_norm")}
    assert places(Site((), "logits"), "logits") == set()
    assert places(Site((1,), "moe.up")) == {(1, "moe.up")}


@pytest.mark.parametrize(
    ("found", "truth", "right"),
    [
        (Slice(experts=(3,)), Slice(experts=(3, 5)), True),
        (Slice(experts=(3, 4)), Slice(experts=(3, 5)), False),
        (Slice(), Slice(experts=(3,)), False),
        (Slice(rows=(3,)), Slice(experts=(3,)), False),
        (Slice(experts=(3,), positions=(0, 9)), Slice(experts=(3,)), True),
        (Slice(experts=(3,), rows=(63,)), Slice(experts=(3,), rows=(64, 65)), False),
        (Slice(columns=(128, 256)), Slice(columns=(100, 300)), True),
        (Slice(columns=(0, 256)), Slice(columns=(100, 300)), False),
        (Slice(positions=(100, 600)), Slice(positions=(100, 1 << 20)), True),
        (Slice(positions=(99, 600)), Slice(positions=(100, 1 << 20)), False),
    ],
)
def test_slices(found: Slice, truth: Slice, right: bool):
    assert within_slice(found, truth) is right


def test_a_right_slice_at_a_wrong_place_is_no_slice():
    assert judge(replace(RIGHT, layers=(0,))).sliced is False
    assert judge(replace(RIGHT, stage="moe.down")).sliced is False, "that site names no slice"
    assert judge(RIGHT, replace(TRUTH, truth=Site((1, 2), "moe.gate"))).sliced is None


def test_causes_are_equal_or_not():
    other = replace(RIGHT, cause="rows are permuted", alternatives=("constant ratio",))
    assert (judge(other).cause_named, judge(other).cause_listed) == (False, True)


def test_a_fault_of_a_rung_is_localized_by_the_rung():
    decode = replace(TRUTH, truth=None, also=(), rung="decode")
    said = replace(RIGHT, rung="decode", stage=None, layers=(), slice=Slice())
    assert judge(said, decode).localized
    assert judge(said, decode).proved is None
    assert not judge(replace(said, rung="prompt"), decode).localized
    assert not judge(RIGHT, decode).localized
    both = replace(TRUTH, rung="config")
    assert judge(replace(said, rung="config and checkpoint"), both).localized
    assert judge(RIGHT, both).localized


def test_a_control_has_no_score():
    with pytest.raises(UsageError):
        judge(RIGHT, replace(TRUTH, control=True))


def test_power_is_read_from_the_record():
    weak = replace(TRUTH, truth=Site((1,), "moe.up", Slice(experts=(3,))), details={"ratio": 1.005})
    record = Power("isolated", "moe.up", "expert", "scale", 0.01, 0.1, 64)
    assert below_power(weak, [record])
    assert not below_power(weak, [])
    assert not below_power(weak, [record, replace(record, mode="distance", strength=0.002)])
    assert not below_power(replace(weak, details={"ratio": 1.5}), [record])
    assert not below_power(replace(weak, details={}), [record])
    assert not below_power(weak, [replace(record, stage="moe.down")])
    assert below_power(replace(weak, details={"ratio": 5.0}), [replace(record, strength=None)])


def test_wilson():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for count, of, low, high in (
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
    ):  # fmt: skip
        assert wilson(count, of) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20)[1] == pytest.approx(1.0)
    assert Rate.among(0, 0).rate is None
