"""What do the rungs' numbers say of popular diagnoses, and of what people say in their own words?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity.climb import RUNGS, Case, Investigation, RungResult, Status, investigate
from parity.climb.claims import AFTERWARDS
from parity.climb.folklore import FOLKLORE, folklore_of
from parity.ladder.ledger import Ledger, Standing
from parity.records import Comparison, Finding, Summary, Verdict, as_json
from parity.runner import open_runner

JUDGES = {one.name: one.judge for one in FOLKLORE}


def compared(stage: str, over: float, mode: str, whole: dict[str, float] | None = None, rows: int = 100) -> Comparison:
    verdict = Verdict.EXCEEDS_FLOOR if over > 1 else Verdict.WITHIN_FLOOR
    reason = "over" if over > 1 else ""
    name = f"L00.{stage}"
    return Comparison(name, 0, stage, "prefill", verdict, whole or {}, (), over, rows, reason=reason, mode=mode)


def measured(number: int, *records: Comparison, status: Status | None = None) -> RungResult:
    """Rung 4 or 5 with these comparisons."""
    summary = Summary(tuple(one.name for one in records), records)
    faulty = sum(one.verdict.faulty for one in records)
    found = status or (Status.FOUND if faulty else Status.RULED_OUT)
    numbers = {"worst_over_floor": summary.worst_over_floor, "faulty": faulty, "sites": len(records)}
    evidence = {"chained" if number == 4 else "isolated": as_json(summary)}
    return RUNGS[number].result(found, "said", numbers=numbers, evidence=evidence)


def routes(complete: float, over: float = 0.5) -> Comparison:
    return compared("moe.topk_ids", over, "chained", {"complete": complete, "overlap": 2.0, "top_k": 2.0})


def stands(name: str, *results: RungResult) -> str:
    return JUDGES[name]({one.number: one for one in results}).standing.value


def symptom(status: Status, **numbers: Any) -> RungResult:
    return RUNGS[2].result(status, "said", numbers={"verdict": "diverged", "sampler": "as_asked", **numbers})


def test_noise_is_refuted_by_a_stage_that_leaves_it_and_comes_again():
    inside, outside = compared("moe.up", 0.4, "isolated"), compared("moe.up", 3.0, "isolated")
    chained = measured(4, compared("moe.up", 0.4, "chained"))
    assert stands("noise", chained, measured(5, inside)) == "supported"
    assert stands("noise", chained, measured(5, outside)) == "refuted"
    once = RUNGS[6].result(Status.FOUND, "said", numbers={"repeated": False})
    assert stands("noise", chained, measured(5, outside), once) == "inconclusive"
    assert stands("noise", chained) == "inconclusive"
    assert stands("noise", chained, measured(5, inside, status=Status.INCONCLUSIVE)) == "inconclusive"


def test_near_ties_explain_only_what_is_gone_with_the_same_experts():
    fine, wrong = measured(5, compared("moe.up", 0.4, "isolated")), measured(5, compared("moe.up", 3.0, "isolated"))
    assert stands("near_ties", measured(4, routes(0.95)), wrong) == "refuted"
    assert stands("near_ties", measured(4, routes(1.0)), fine) == "refuted"
    assert stands("near_ties", measured(4, routes(0.95, over=4.0)), fine) == "refuted"
    assert stands("near_ties", measured(4, routes(0.95)), fine) == "inconclusive"
    assert stands("near_ties", measured(4, routes(0.95)), fine, symptom(Status.FOUND)) == "supported"
    assert stands("near_ties", measured(4, compared("mlp.up", 0.4, "chained")), fine) == "inconclusive"


def test_rope_is_judged_by_what_it_puts_out_and_what_is_stated():
    fine, wrong = compared("attn.k_rope", 0.4, "isolated"), compared("attn.k_rope", 2.0, "isolated")
    assert stands("rope", measured(5, fine)) == "refuted"
    assert stands("rope", measured(5, wrong)) == "supported"
    stated = Finding("fault", "config", evidence={"name": "rope_theta"})
    audit = RUNGS[1].result(Status.FOUND, "said", numbers={"findings": 1}, findings=(stated,))
    assert stands("rope", audit, measured(5, fine)) == "supported"
    assert "beyond" in " ".join(JUDGES["rope"]({5: measured(5, fine)}).leaves_open)
    assert stands("rope", measured(5, compared("moe.up", 0.4, "isolated"))) == "inconclusive"


def test_the_sampler_and_the_model_are_judged_by_decoding():
    assert stands("sampler", symptom(Status.FOUND)) == "refuted"
    assert stands("sampler", symptom(Status.FOUND, sampler="unknown")) == "inconclusive"
    chose = replace(symptom(Status.FOUND), findings=(Finding("fault", "decode"),))
    assert stands("sampler", chose) == "supported"
    assert stands("model", symptom(Status.FOUND)) == "refuted"
    assert stands("model", symptom(Status.RULED_OUT, verdict="agrees")) == "supported"
    assert stands("model", symptom(Status.INCONCLUSIVE)) == "inconclusive"


@pytest.mark.parametrize(
    ("outcomes", "blamed", "standing"),
    [
        ({"history": "held", "poison": "held", "batch": "held"}, None, "refuted"),
        ({"history": "held", "poison": "broken", "batch": "held"}, "poison", "supported"),
        ({"history": "held", "poison": "broken", "batch": "held"}, None, "inconclusive"),
        ({"history": "held", "poison": "not_run", "batch": "held"}, None, "inconclusive"),
    ],
    ids=["held", "broken", "within rounding", "not run"],
)
def test_memory_is_judged_by_the_invariances(outcomes: dict[str, str], blamed: str | None, standing: str):
    findings = () if blamed is None else (Finding("fault", f"invariances ({blamed})"),)
    ran = RUNGS[3].result(Status.INCONCLUSIVE, "said", numbers={"outcomes": outcomes}, findings=findings)
    assert stands("memory", ran) == standing


@pytest.mark.parametrize(
    ("claim", "name"),
    [
        ("It is quantization noise of FP8", "noise"),
        ("an NVFP4 limitation of the format", "noise"),
        ("YaRN is applied where it must not be", "rope"),
        ("chunked prefill loses context", "chunks"),
        ("temperature too high", "sampler"),
        ("the moon is full", None),
        ("rounding in the router", None),
    ],
)
def test_a_claim_is_recognized_by_its_words_or_left_to_people(claim: str, name: str | None):
    kind = folklore_of(claim)
    assert (None if kind is None else kind.name) == name


def test_what_a_person_enters_is_tried_before_and_after_the_climb(
    case: Case, exact: Any, bf16_model: Path, tmp_path: Path, climb_on: Callable[..., Investigation]
):
    out = tmp_path / "case"
    before = Ledger(out).suppose("quantization noise, says Ada", prediction="within the floor", raised_by="Ada")
    moon = Ledger(out).suppose("the moon is full", prediction="it is bright", raised_by="Bo")
    rungs = (0, 1, 2, 3, 7, 8)
    found = investigate(case, out, sut=open_runner(case.sut, order=3), oracle=exact, resume=True, skip=rungs)
    ledger = found.ledger
    assert ledger.standing(before.id) is Standing.SUPPORTED
    assert AFTERWARDS not in ledger.tests(before.id)[0].leaves_open
    assert ledger.standing(moon.id) is Standing.OPEN, "what nothing here can try is a person's to test"
    late = ledger.suppose("the rope base is wrong", prediction="k_rope over its floor", raised_by="Cy")
    again = investigate(case, out, sut=open_runner(case.sut, order=3), oracle=exact, resume=True, skip=rungs)
    assert again.ledger.standing(late.id) is Standing.REFUTED
    assert AFTERWARDS in again.ledger.tests(late.id)[0].leaves_open
