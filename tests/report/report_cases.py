"""Folders of investigations as `parity investigate` leaves them, made of records: any verdict, any text, any length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from report_pictures import experts_cut_off, field, gate_is_passed_on, gate_is_wrong, summary, within

from parity.climb import RUNGS, Case, RungResult, Status
from parity.climb.climb import VERDICTS
from parity.climb.conclude import conclude
from parity.climb.investigation import Investigation, finding_content
from parity.climb.store import CASE, FINDING, write_json
from parity.climb.store import RUNGS as FOLDER
from parity.fingerprint import reduce_field
from parity.fingerprint.causes import NEVER_WRITTEN
from parity.graft.effect import Effect
from parity.invariance import Coverage
from parity.ladder import Proof
from parity.ladder.ledger import Ledger, Standing
from parity.records import Finding, Slice, as_json
from parity.runner import Request

PLAIN = "def f(x):"
HERE = {"python": "3.11", "torch": "2.13", "triton": None, "device": "cpu", "interpreted": False}


def make_case(
    folder: Path, *, verdict: str = "fault", rungs: int = 9, text: str = PLAIN, skipped: tuple[int, ...] = ()
) -> Path:
    """An investigation in `folder`.

    verdict: fault, clean, refused or unresolved. rungs: how many have a result. text: stands in every place that a
    model, a trace, a prompt or a person fills. skipped: rungs that were NOT_RUN.
    """
    case = Case(
        sut="stub:engine", oracle="stub:oracle", request=Request(text, (1, 2, 3, 4)), emulation="stub:emulation",
        sut_options={"note": text}, floor="floor.json", claim=text,
    )  # fmt: skip
    content = {"case": as_json(case), "environment": HERE | {"cpu_capability": text}, "commands": [f"parity # {text}"]}
    write_json(folder / CASE, content)
    ledger = Ledger(folder)
    results: dict[int, RungResult] = {}
    for rung in RUNGS[:rungs]:
        supposed = ledger.suppose(rung.claim, prediction=rung.prediction, raised_by=f"rung {rung.number} {rung.name}")
        made = {"hypothesis": supposed.id, "seconds": 1.5, "forwards": rung.number, "commands": (f"parity x '{text}'",)}
        if rung.number in skipped:
            result = rung.result(Status.NOT_RUN, f"left out: {text}", hypothesis=supposed.id)
        else:
            result = _result(rung.number, rung, verdict, text, made)
        write_json(folder / FOLDER / rung.file, result)
        ledger.conclude(
            supposed.id, VERDICTS.get(result.status, Standing.INCONCLUSIVE), command="parity investigate",
            numbers=result.numbers, artifacts=[folder / FOLDER / rung.file], rules_out=result.rules_out,
            leaves_open=result.leaves_open,
        )  # fmt: skip
        results[rung.number] = result
    person = ledger.suppose(f"It is the sampler, says {text}", prediction="another seed mends it", raised_by=text)
    numbers = {"seeds": 5, text[:40]: 0.25, "kl": float("nan")}
    ledger.conclude(person.id, "refuted", command="parity decode", numbers=numbers)
    ledger.suppose(text, prediction=text, raised_by="a person")
    if rungs == len(RUNGS):
        found = conclude(results)
        done = Investigation(
            folder, case, tuple(results.values()), found.finding, found.others, found.fix, found.withheld
        )
        write_json(folder / FINDING, finding_content(done))
    return folder


def _result(number: int, rung: Any, verdict: str, text: str, made: dict[str, Any]) -> RungResult:
    wrong = verdict == "fault"
    maker = {
        0: lambda: rung.result(Status.RULED_OUT, "The ids are the template's.", numbers={"that_differ": 0}, **made),
        1: lambda: rung.result(Status.RULED_OUT, "18 compared.", numbers={"values": {"same": 18, text: 0}}, **made),
        2: lambda: _symptom(rung, wrong, text, made),
        3: lambda: _invariances(rung, verdict, text, made),
        4: lambda: _compared(rung, "chained", summary(4, gate_is_passed_on if wrong else within), wrong, made),
        5: lambda: _compared(
            rung, "isolated", summary(4, gate_is_wrong if wrong else within, mode="isolated"), wrong, made
        ),
        6: lambda: _zoom(rung, verdict, text, made),
        7: lambda: _proof(rung, text, made) if wrong else rung.result(Status.NOT_RUN, "there is no site to prove"),
        8: lambda: rung.result(Status.NOT_RUN, "there is no site"),
    }
    return maker[number]()


def _symptom(rung: Any, wrong: bool, text: str, made: dict[str, Any]) -> RungResult:
    ids, other = list(range(12)), [*range(4), *range(90, 98)] if wrong else list(range(12))
    decoding = {
        "prompt_ids": 4, "kl": [0.0, 0.0, 0.0, *([0.01] * 4), "nan", "inf", *([1.0] * 6)], "partings": [], "free": None,
        "oracle_ids": ids, "sut_ids": other,
    }  # fmt: skip
    evidence = {
        "decoding": decoding,
        "tokens": {"sut": other, "oracle": ids},
        "texts": {"sut": text, "oracle": "the truth"},
        "pieces": {"sut": [text] * 12, "oracle": ["the"] * 12},
        "text_scores": {"sut": {"first_degeneration": 3 if wrong else None}, "oracle": {}},
    }
    status = Status.FOUND if wrong else Status.RULED_OUT
    said = f"Diverged: {text}" if wrong else "Same."
    return rung.result(status, said, numbers={"kl_mean": {"decode": 0.3}}, evidence=evidence, **made)


def _invariances(rung: Any, verdict: str, text: str, made: dict[str, Any]) -> RungResult:
    loads = experts_cut_off().expert_loads
    launch = Coverage("L01.moe.gate", 1, "moe.gate", "rows_per_expert", 48, max(loads), 16, (1,), loads)
    evidence = {"coverage": [launch] if verdict == "fault" else [], "invariances": []}
    if verdict == "refused":
        finding = Finding(
            "refused", "probes", stage="moe.gate", sentence=f"Its traces are not what it computes: {text}"
        )
        return rung.result(
            Status.FOUND, "probes", numbers={"broken": 1}, findings=(finding,), evidence=evidence, **made
        )
    return rung.result(Status.RULED_OUT, "Held.", numbers={"broken": 0}, evidence=evidence, **made)


def _compared(rung: Any, name: str, held: Any, wrong: bool, made: dict[str, Any]) -> RungResult:
    numbers = {"sites": len(held.comparisons), "worst_over_floor": held.worst_over_floor}
    control = {"arm": "the emulation", "healthy": True}
    status = Status.FOUND if wrong else Status.RULED_OUT
    said = f"{held.verdicts}"
    return rung.result(status, said, numbers=numbers, control=control, evidence={name: held}, **made)


def _finding(text: str) -> Finding:
    return Finding(
        "fault", "isolated replay", (1, 2), "moe.gate", Slice(experts=(0,), rows=tuple(range(48, 70))), NEVER_WRITTEN,
        f"The first stage that adds error is moe.gate: {text}", 80.0,
        {"by_layer": [{"layer": 1, "sentence": f"Rows 48 and up: {text}"}], "repeated": True, "repetition": "again"},
    )  # fmt: skip


def _zoom(rung: Any, verdict: str, text: str, made: dict[str, Any]) -> RungResult:
    if verdict == "fault":
        fields = [experts_cut_off(), reduce_field(field())]
        return rung.result(
            Status.FOUND, "One site.", numbers={"over_floor": 80.0}, findings=(_finding(text),),
            evidence={"fields": fields}, **made,
        )  # fmt: skip
    if verdict == "unresolved":
        return rung.result(Status.INCONCLUSIVE, "Not everything could be judged.", evidence={"open": [text]}, **made)
    return rung.result(Status.RULED_OUT, "All within the floor.", numbers={"over_floor": 0.8}, **made)


def _proof(rung: Any, text: str, made: dict[str, Any]) -> RungResult:
    site, effect = "L01.moe.gate", Effect(0.3, 0.001, 2.0, 0.01, 0.5, 1.0, 16, 4000)
    proof = Proof((site,), 0, {site: 30.0}, {site: (4.0, 0.5)}, {}, effect, (0, 12), (12, 12))
    found = replace(_finding(text), proof={"proved": True})
    return rung.result(
        Status.FOUND, "Proved.", numbers={"sham_changed": 0}, findings=(found,), evidence={"proof": proof}, **made
    )
