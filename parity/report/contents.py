"""What does a report of an investigation say, section by section? Gathered from its ledger and records alone."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from parity.climb import Investigation
from parity.climb.conclude import FALSIFICATIONS
from parity.climb.rungs import RUNGS
from parity.climb.store import FINDING, read_case, read_json
from parity.ladder.ledger import Ledger
from parity.report.evidence import (
    Rows,
    tell_finding,
    tell_proof,
    tell_sites,
    tell_symptom,
    tell_tensors,
    tell_texts,
    tell_where,
)  # fmt: skip
from parity.report.gallery import coverage_of
from parity.report.integrity import require_whole, withdrawn_rungs
from parity.report.setup import tell_setup
from parity.report.steps import Step, tell_refuted, tell_steps, tell_undecided
from parity.report.words import launches_over

LOOK_HERE = "Recommended: look here"


@dataclass(frozen=True)
class Report:
    """Plain values, in the order in which a reader wants them. A row is (what, value) or as the section's header says.

    notes: what is unusual about the folder itself: not finished, evidence withdrawn, an older finding.json.
    advice: LOOK_HERE, where `recommendation` names a fix; else it says why none is. launches: lines of those that
    fall short. refuted: (id, claim, prediction, numbers, what it rules out). undecided: (id, claim, where it stands,
    what is open).
    reproduce: (what, command).
    """

    title: str
    verdict: str
    sentence: str
    notes: tuple[str, ...]
    advice: str
    recommendation: str
    symptom: str
    texts: Rows
    tensors: tuple[str, ...]
    setup: Rows
    steps: tuple[Step, ...]
    finding: Rows
    others: tuple[str, ...]
    sites: Rows
    sites_said: str
    launches: tuple[str, ...]
    proof_state: str
    proof: tuple[str, ...]
    refuted: Rows
    undecided: Rows
    not_excluded: tuple[str, ...]
    reproduce: Rows


def gather(found: Investigation) -> Report:
    """The report of an investigation as far as it got.

    Raises UsageError for a folder that was altered, or whose records cannot be read.
    """
    ledger = Ledger(found.folder)
    require_whole(found, ledger)
    gone = withdrawn_rungs(found, ledger)
    finding = found.finding
    chained, isolated = found.summary(4, "chained"), found.summary(5, "isolated")
    advice, recommendation = _recommendation(found, gone)
    proof_state, proof = tell_proof(found, gone)
    sites, sites_said = tell_sites(chained, isolated)
    return Report(
        title=_title(found, gone),
        verdict=finding.verdict,
        sentence=finding.sentence,
        notes=tuple(_notes(found, gone)),
        advice=advice,
        recommendation=recommendation,
        symptom=tell_symptom(found),
        texts=tell_texts(found),
        tensors=tuple(tell_tensors(chained, finding)),
        setup=tuple(tell_setup(found)),
        steps=tuple(tell_steps(found, gone)),
        finding=tuple(tell_finding(finding)),
        others=tuple(f"{tell_where(one)}: {one.sentence}" for one in found.others),
        sites=sites,
        sites_said=sites_said,
        launches=tuple(launch.line() for launch in launches_over(coverage_of(found))),
        proof_state=proof_state,
        proof=proof,
        refuted=tuple(tell_refuted(ledger)),
        undecided=tuple(tell_undecided(ledger)),
        not_excluded=(*finding.not_excluded, *_not_reached(found, gone)),
        reproduce=tuple(_reproduce(found)),
    )


def _title(found: Investigation, gone: Mapping[int, str]) -> str:
    finding = found.finding
    if len(found.results) < len(RUNGS) or gone:
        return f"Investigation of {found.case.sut}: not finished"
    if finding.verdict == "fault":
        return f"Investigation of {found.case.sut}: {finding.cause or 'a fault of unknown cause'}"
    return f"Investigation of {found.case.sut}: {finding.verdict}"


def _notes(found: Investigation, gone: Mapping[int, str]) -> Iterator[str]:
    done = {result.number for result in found.results}
    missing = [f"{rung.number} {rung.name}" for rung in RUNGS if rung.number not in done]
    if missing:
        yield (
            f"This investigation is not finished: rungs {', '.join(missing)} have no result yet. What follows is what "
            f"is known so far; `parity investigate ... --out {found.folder.name} --resume` goes on."
        )
    for number, why in gone.items():
        yield f"The evidence of rung {number} was withdrawn ({why}); `--resume` runs it again."
    if not missing and not gone:
        path = found.folder / FINDING
        if not path.is_file():
            yield f"{FINDING} is missing; the finding below was drawn from the rungs' results."
            return
        stored = read_json(path)
        now = (found.finding.verdict, found.finding.stage, found.finding.cause)
        if not isinstance(stored, dict) or (stored.get("verdict"), stored.get("stage"), stored.get("cause")) != now:
            yield f"{FINDING} says otherwise than the rungs' results, which are newer; the report follows the results."


def _recommendation(found: Investigation, gone: Mapping[int, str]) -> tuple[str, str]:
    """What to do. Never a fix before rung 0 and the falsifications are on record, and while their evidence counts."""
    missing = [f"rung {number}" for number in FALSIFICATIONS if found.rung(number) is None]
    missing += [f"rung {number}, whose evidence was withdrawn" for number in FALSIFICATIONS if number in gone]
    if found.withheld or missing:
        why = "No fix is recommended before the prompt and the falsifications are on record; missing: "
        return "No recommendation yet", found.withheld or why + "; ".join(missing)
    if found.finding.verdict == "clean":
        return "Nothing to recommend", "Nothing to mend was found."
    if found.finding.verdict != "fault":
        return "No recommendation yet", "No cause was established: settle first what is listed as not excluded."
    if not found.fix:
        return "No recommendation yet", "The place is known, its cause is not: no fix can be named."
    proved = "" if found.finding.proof.get("proved") else " The finding is not proved yet."
    return LOOK_HERE, found.fix + proved


def _not_reached(found: Investigation, gone: Mapping[int, str]) -> Iterator[str]:
    for rung in RUNGS:
        if found.rung(rung.number) is None:
            yield f"rung {rung.number} {rung.name} has not been reached: {'; '.join(rung.rules_out) or rung.question}"
        elif rung.number in gone:
            yield f"rung {rung.number} {rung.name}: its evidence was withdrawn: {gone[rung.number]}"


def _reproduce(found: Investigation) -> Iterator[tuple[str, str]]:
    content = read_case(found.folder)
    for command in content.get("commands") or ():
        yield "the investigation", str(command)
    for result in found.results:
        for command in result.commands:
            yield f"rung {result.number} {result.name}", str(command)
    folder = shlex.quote(str(found.folder))
    yield "the ledger", f"parity ledger show --case {folder}"
    yield "this report", f"parity report {folder}"
