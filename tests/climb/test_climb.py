"""From the prompt to the proof on one engine: a healthy one is cleared, a planted one is found, placed and proved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity.climb import RUNGS, Case, Investigation, Status, investigate
from parity.climb.bench import Bench
from parity.climb.counted import Counted
from parity.climb.folklore import FOLKLORE
from parity.climb.knobs import turn_knobs
from parity.decode import compare_decoding
from parity.errors import UsageError
from parity.fingerprint.causes import CONSTANT_RATIO, SAMPLER
from parity.floor import Floor
from parity.ladder.calibrate import Opening
from parity.ladder.ledger import Standing
from parity.reading import read_record
from parity.records import Summary
from parity.runner import open_runner
from tests.climb.conftest import random_request

Climb = Callable[..., Investigation]


@pytest.fixture(scope="module")
def healthy(climb_on: Climb) -> Investigation:
    return climb_on()


@pytest.fixture(scope="module")
def scaled(climb_on: Climb) -> Investigation:
    """The down projection of layer 1 comes out a tenth too large."""
    return climb_on({(1, "moe.down"): lambda x: (x.float() * 1.1).to(x.dtype)})


def status(found: Investigation) -> dict[str, str]:
    return {one.name: one.status.value for one in found.results}


def test_a_healthy_engine_is_cleared_rung_by_rung(healthy: Investigation):
    assert (healthy.finding.verdict, healthy.exit_code) == ("clean", 0), healthy.finding
    found = status(healthy)
    assert [one.name for one in healthy.results] == [rung.name for rung in RUNGS]
    assert {found[name] for name in ("audit", "symptom", "invariances", "sweep", "replay", "zoom")} == {"ruled_out"}
    assert (found["proof"], found["fixture"]) == ("NOT_RUN", "NOT_RUN")
    assert not healthy.fix


def test_a_planted_factor_is_found_repeated_proved_and_cut_down(scaled: Investigation):
    finding = scaled.finding
    assert (finding.verdict, finding.layers, finding.stage) == ("fault", (1,), "moe.down")
    assert finding.cause == CONSTANT_RATIO
    assert finding.proof["proved"], finding.proof
    assert finding.evidence["repeated"]
    assert "halves exchanged" in finding.evidence["repetition"]
    assert scaled.exit_code == 1
    fixture = json.loads((scaled.folder / "fixture.json").read_text())
    assert 8 <= len(fixture["ids"]) < 90
    assert scaled.rung(8).status is Status.FOUND  # type: ignore[union-attr]


def test_every_rung_has_its_control_and_it_is_healthy(scaled: Investigation):
    for result in scaled.results[1:6]:
        assert result.control["healthy"], (result.name, result.control)
    assert scaled.results[7].control == {"arm": RUNGS[7].control, "logits_changed": 0, "healthy": True}


def test_no_fix_is_named_before_the_prompt_is_on_record(climb_on: Climb):
    found = climb_on({(1, "moe.down"): lambda x: (x.float() * 1.5).to(x.dtype)}, skip=(0, 1, 2, 7, 8))
    assert found.finding.verdict == "fault"
    assert found.fix == ""
    assert "rung 0 (prompt: left out by whoever asked)" in found.withheld
    assert "rung 3" not in found.withheld
    assert any(one.startswith("rung 2 symptom was not run") for one in found.finding.not_excluded)


def test_each_claim_was_predicted_before_its_test(scaled: Investigation):
    ledger = scaled.ledger
    rungs = {h.raised_by: h.id for h in ledger.hypotheses if h.raised_by != "built in"}
    assert list(rungs) == [f"rung {rung.number} {rung.name}" for rung in RUNGS]
    order = {getattr(entry, "id", ""): number for number, entry in enumerate(ledger.entries)}
    for test in ledger.tests():
        read = test.rests_on if test.hypothesis not in rungs.values() else ()
        assert order[test.hypothesis] < min([order[test.id], *(order[one] for one in read)])
    assert ledger.standing(rungs["rung 5 replay"]) is Standing.SUPPORTED
    assert ledger.standing(rungs["rung 3 invariances"]) is Standing.REFUTED
    assert ledger.tests(rungs["rung 7 proof"])[0].rests_on == ("T5", "T6", "T7")


def test_popular_diagnoses_are_tried_by_what_was_measured(scaled: Investigation, healthy: Investigation):
    by_claim = {one.claim: one.name for one in FOLKLORE}

    def standings(found: Investigation) -> dict[str, str]:
        ledger = found.ledger
        raised = [one for one in ledger.hypotheses if one.raised_by == "built in"]
        return {by_claim[one.claim]: ledger.standing(one.id).value for one in raised}

    faulty, sound = standings(scaled), standings(healthy)
    assert set(faulty) == set(by_claim.values())
    wrong = ("noise", "near_ties", "rope", "sampler", "chunks")
    assert {name: faulty[name] for name in wrong} == dict.fromkeys(wrong, "refuted")
    assert faulty["memory"] == "inconclusive", "an emulation has no memory to poison"
    assert (sound["noise"], sound["model"], sound["rope"]) == ("supported", "supported", "refuted")
    assert any("worst_over_floor_alone" in test.numbers for test in scaled.ledger.tests())


def test_what_lies_on_disk_reads_back_as_what_was_found(scaled: Investigation):
    again = Investigation.read(scaled.folder)
    assert again.results == scaled.results
    assert again.finding == scaled.finding
    isolated = read_record(Summary, again.rung(5).evidence["isolated"])  # type: ignore[union-attr]
    assert isolated.diverged
    written = json.loads((scaled.folder / "finding.json").read_text())
    assert (written["stage"], written["layers"], written["exit_code"]) == ("moe.down", [1], 1)
    assert {row["name"] for row in written["rungs"]} == {rung.name for rung in RUNGS}


def test_a_sampler_that_takes_the_second_best_ends_the_climb_early(climb_on: Climb):
    found = climb_on(second_best=True)
    assert (found.finding.verdict, found.finding.rung, found.finding.cause) == ("fault", "decode", SAMPLER)
    assert found.finding.proof["proved"]
    assert status(found)["sweep"] == "NOT_RUN"
    assert "proved at rung 2" in found.results[4].sentence


def test_beside_an_exact_emulation_the_floor_says_the_noise(tmp_path: Path):
    """An FP32 engine's recipe is exact arithmetic, which has no noise of its own."""
    fixtures = Path(__file__).resolve().parents[2] / "fixtures"
    spec = f"recipe:{fixtures / 'models' / 'moe-tiny'}"
    engine = open_runner(spec, recipe="fp32")
    case = Case(sut=spec, oracle=spec, request=random_request(0, 40), emulation=spec, new_tokens=3)
    opening, floor = Opening(spec, {"recipe": "fp32"}), Floor.load(fixtures / "floors" / "fp32.json")
    bench = Bench(case, tmp_path, sut=Counted(engine), oracle=engine, emulation=opening, floor=floor)
    found = compare_decoding(sut=bench.engine, oracle=bench.decoding, request=case.request, tokens=case.new_tokens)
    assert found.noise["source"] == "floor"


def test_a_greedy_path_that_skips_the_mask_is_found_by_forbidding_its_own_choice(
    climb_on: Climb, healthy: Investigation
):
    found = climb_on(unmasked=True)
    assert (found.finding.verdict, found.finding.rung, found.finding.cause) == ("fault", "decode", SAMPLER)
    assert "banned tokens came out" in found.finding.sentence
    assert found.finding.evidence["repeated"]
    assert found.finding.proof["proved"]
    assert healthy.results[2].numbers["sampler_under_ban"] == "as_asked"


def test_a_second_investigation_needs_a_folder_of_its_own(healthy: Investigation, climb_on: Any, case: Any, exact: Any):
    from parity.climb import investigate

    with pytest.raises(UsageError, match="--resume"):
        investigate(case, healthy.folder, oracle=exact)


def test_a_result_without_numbers_is_refused():
    with pytest.raises(UsageError, match="numbers"):
        RUNGS[4].result(Status.RULED_OUT, "all is well")


def test_what_was_found_makes_a_report_with_its_figures(scaled: Investigation, healthy: Investigation):
    pytest.importorskip("matplotlib")
    from parity.report.contents import LOOK_HERE, gather
    from parity.report.gallery import draw_gallery

    report = gather(scaled)
    assert report.advice == LOOK_HERE
    assert report.proof_state == "proved"
    assert any("than the checkpoint's" in row[1] for row in report.refuted), "the checkpoint was ruled out"
    names = [exhibit.name for exhibit in draw_gallery(scaled)]
    assert {"error-field-1", "expert-load", "position-curve", "text-divergence", "layer-stage-map"} <= set(names)
    assert gather(healthy).advice == "Nothing to recommend"


def test_a_knob_that_clears_and_one_that_does_nothing_are_told_apart(climb_on: Climb):
    faulty = {(0, "mlp.norm"): lambda x: (x.float() * 2).to(x.dtype), (1, "attn.out"): lambda x: x}
    found = climb_on(faulty, skip=(0, 1, 4, 5, 6, 7, 8), knobs=True)
    knobs = {one["op"]: one for one in found.results[3].evidence["knobs"]}
    assert knobs["mlp.norm"]["verdict"] == "clears"
    assert knobs["mlp.norm"]["sites_changed"] > 0
    assert knobs["attn.out"]["verdict"] == "not shown to take effect"
    chunk = knobs["chunk"]
    assert chunk["path"] == "24"
    assert "chunk 24" in chunk["shown"], "the run itself says that it was fed so"
    assert chunk["verdict"] == "no change"
    ops = {"mlp.norm=reference", "attn.out=reference", "embed.out=reference"}
    assert set(found.results[3].numbers["knobs"]) == {*ops, "chunk=24"}


def test_an_engine_that_dies_under_a_check_is_not_clean(case: Case, exact: Any, bf16_model: Path, tmp_path: Path):
    """Its trace is right, and so is every stage alone: what killed it is what has to be looked at."""
    spec = f"tests.climb.planted_engine.open_dying:{bf16_model}"
    found = investigate(replace(case, sut=spec, checks=("sums", "chunks")), tmp_path / "case", oracle=exact)
    third = found.rung(3)
    assert third is not None
    assert (third.status, third.numbers["died_under"]) == (Status.INCONCLUSIVE, "chunks")
    assert (found.finding.verdict, found.exit_code) == ("unresolved", 2)
    assert "died under the check `chunks`" in found.finding.sentence


@pytest.mark.long
def test_options_of_opening_are_knobs_too(case: Case, exact: Any, bf16_model: Path, tmp_path: Path):
    """Each in an engine opened anew: one that mends, and leaves out what means
    nothing beside it; one that does nothing; and one that the engine cannot run."""
    spec = f"tests.climb.planted_engine.open_scaled:{bf16_model}"
    engine = Counted(open_runner(spec, mode="idle"))
    bench = Bench(
        replace(case, sut=spec, sut_options={"mode": "idle"}), tmp_path, sut=engine, oracle=exact, emulation=None,
        floor=Floor.load(Path(str(case.floor))),
    )  # fmt: skip
    knobs = {one.op: one for one in turn_knobs(bench)}
    assert (knobs["factor"].verdict, knobs["factor"].path) == ("clears", "1.0")
    assert knobs["factor"].shown == "the run says factor 1.0, and 1.1 before"
    assert knobs["idle"].verdict == "not shown to take effect"
    assert knobs["order"].verdict == "failed"
    assert "order of the arithmetic" in knobs["order"].sentence


def test_rungs_that_break_leave_an_unresolved_verdict(climb_on: Climb, monkeypatch: pytest.MonkeyPatch):
    """An oracle, or an engine, may raise in the middle of the sweep: what rests on it is not run, claims stay open."""

    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError("no more of it")

    monkeypatch.setattr("parity.climb.rungs.sweep.sweep_against", broken)
    monkeypatch.setattr("parity.climb.rungs.replay.numbers_of", broken)
    found = climb_on(skip=(0, 1, 2, 3))
    assert status(found)["sweep"] == "inconclusive"
    assert status(found)["zoom"] == "NOT_RUN"
    assert found.finding.verdict == "unresolved"
    rung = found.rung(6)
    assert rung is not None
    assert "which were not finished" in rung.sentence


def test_what_was_not_tried_is_not_ruled_out(climb_on: Climb):
    rung = climb_on(skip=(0, 1, 2, 4, 5, 6, 7, 8), checks=("sums",)).results[3]
    assert rung.status is Status.RULED_OUT
    assert rung.rules_out == ("sums that do not come out: routing weights, tokens per expert, permutations",)
    assert any(one.startswith("poison: ") and "left it out" in one for one in rung.leaves_open)
    assert rung.forwards == 1


def test_a_knob_that_helps_one_layer_and_hurts_another_is_no_cause():
    from types import SimpleNamespace

    from parity.climb.knobs import WARNING, _judge

    bench: Any = SimpleNamespace(info=SimpleNamespace(hyper={"hidden": 144, "expert_width": 136}))
    before, after = {"L00": (0.2, True), "L01": (0.2, True)}, {"L00": (0.1, False), "L01": (0.4, True)}
    knob = _judge(bench, "router", "reference", 5, before, after)
    assert (knob.verdict, WARNING in knob.sentence) == ("mixed", True)
    assert (
        _judge(bench, "router", "reference", 5, before, {"L00": (0.1, False), "L01": (0.15, True)}).verdict == "moves"
    )
    assert _judge(bench, "router", "reference", 5, before, before).verdict == "no change"
    assert _judge(bench, "kv", "f32", 0, before, before).verdict == "not shown to take effect"
    mended = {"L00": (0.1, False), "L01": (0.15, False)}
    assert _judge(bench, "kv", "f32", 5, before, mended).verdict == "clears"
    assert _judge(bench, "dtype", "f32", 5, before, mended, judged=False).verdict == "moves", "another recipe's floor"
