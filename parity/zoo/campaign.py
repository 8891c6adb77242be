"""Run the whole zoo: find models and floors, plan the cases, run each by itself, judge what came back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.errors import UsageError
from parity.process_runner import ProcessRunner
from parity.records import as_json
from parity.zoo.cases import Case, Habitat, Plan, plan_cases, tested
from parity.zoo.catalogue import Catalogue
from parity.zoo.floors import find_floor, make_floor_for
from parity.zoo.launch import CaseProcesses
from parity.zoo.outcome import Outcome, start_journal
from parity.zoo.prompts import apart_from, read_pool
from parity.zoo.verdicts import ZooResult, judge_cases
from parity.zoo.version import code_version

FIXTURES = Path(__file__).resolve().parent.parent.parent / "fixtures"
INVESTIGATOR = "parity.zoo.blind:investigate_blind"

Tell = Callable[[str, str, Outcome | None], None]
"""Hears `start` and `end` of each case by its label, with the outcome at its end, and what is prepared before."""


@dataclass(frozen=True)
class Campaign:
    """How the zoo is run.

    models: folders; a fault lives in the first that it fits, clean runs take turns. engine: name of the runner under
    test. prompts: folders of prompt files. floors: folders of stored floors; without a fitting one it is calibrated and
    kept in `out`. tokens: least and most of a fault's prompt. instances: seeds 0..K-1 of each fault. jobs: cases at a
    time; threads: CPU threads of each process; timeout: seconds a case may take; within: seconds after which none is
    started any more, and after which those that run are ended and left for a resumed campaign.
    investigator: `module:function` with the signature of `investigate_blind`.
    """

    out: Path
    models: tuple[Path, ...] = (FIXTURES / "models" / "moe-tiny-fp8", FIXTURES / "models" / "moe-tiny")
    engine: str = "triton"
    prompts: tuple[Path, ...] = (FIXTURES / "prompts", FIXTURES / "heldout")
    floors: tuple[Path, ...] = (FIXTURES / "floors",)
    instances: int = 1
    clean: int = 0
    tokens: tuple[int, int] = (512, 1024)
    new_tokens: int = 16
    jobs: int = 1
    threads: int = 1
    timeout: float = 900.0
    within: float = float("inf")
    resume: bool = False
    investigator: str = INVESTIGATOR


def run_zoo(catalogue: Catalogue, campaign: Campaign, *, tell: Tell | None = None) -> ZooResult:
    """Investigate every fault of the catalogue blind, and the clean runs, and score what came out.

    Outcomes are appended to `out`/outcomes.jsonl as they come, and `out`/zoo.json holds the result of those that are
    known, from the first one on; a case that crashes, hangs or is refused is a recorded miss. Raises UsageError when
    there is nothing to run, and what opening a healthy engine raises.
    """
    say = tell or (lambda *_: None)
    begin = time.monotonic()
    plan = prepare(catalogue, campaign, say)
    journal = start_journal(campaign.out, resume=campaign.resume)
    common = (code_version(), campaign.engine, campaign.investigator, campaign.new_tokens)
    keys = [case.key(*common) for case in plan.cases]
    todo = [(key, case) for key, case in zip(keys, plan.cases, strict=True) if key not in journal.known]
    say("plan", f"{len(plan.cases)} cases, {len(plan.cases) - len(todo)} of them known", None)

    def result() -> ZooResult:
        known = [(case, journal.known[key]) for key, case in zip(keys, plan.cases, strict=True) if key in journal.known]
        judged = judge_cases(*zip(*known, strict=True)) if known else judge_cases((), ())
        return ZooResult(
            faults=judged["fault"],
            controls=judged["control"],
            clean=judged["clean"],
            not_run=plan.not_run,
            problems=(*catalogue.problems, *plan.problems),
            settings=_settings(campaign, plan, common[0]),
            seconds=time.monotonic() - begin,
            pending=tuple(case.label for key, case in zip(keys, plan.cases, strict=True) if key not in journal.known),
        )

    with CaseProcesses() as processes, ThreadPoolExecutor(campaign.jobs) as pool:
        deadline = threading.Timer(min(campaign.within, threading.TIMEOUT_MAX), processes.stop)
        deadline.daemon = True
        deadline.start()

        def run(key: str, case: Case) -> None:
            if processes.stopped:
                return
            say("start", case.label, None)
            outcome = processes.run(
                _task(case, campaign),
                campaign.out / "cases" / key,
                timeout=campaign.timeout,
                threads=campaign.threads,
            )
            if processes.stopped:
                return  # it did not end by itself: a resumed campaign runs it again
            journal.append(key, _described(case), outcome)
            say("end", case.label, outcome)

        running = [pool.submit(run, key, case) for key, case in todo]
        try:
            for future in as_completed(running):
                future.result()
                write_result(result(), campaign.out)
        except BaseException:
            # Interrupted, or the disk is full: nothing more is started, and what runs is ended.
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
        finally:
            deadline.cancel()
    found = result()
    write_result(found, campaign.out)
    return found


def write_result(result: ZooResult, out: Path) -> None:
    """Write `out`/zoo.json, renamed into place: whoever reads it while the campaign runs finds it whole."""
    half = out / "zoo.json.half"
    half.write_text(json.dumps(as_json(result.as_dict()), indent=2) + "\n", encoding="utf-8")
    half.replace(out / "zoo.json")


def prepare(catalogue: Catalogue, campaign: Campaign, say: Tell) -> Plan:
    """The models with their floors, and the cases."""
    if not catalogue.exhibits and not catalogue.problems and not campaign.clean:
        raise UsageError(
            place="zoo",
            expected="faults or clean runs",
            found="neither",
            next_step="Name other faults, or ask for clean runs with --clean.",
        )
    if not catalogue.exhibits and not campaign.clean:
        return Plan((), (), ())
    habitats = []
    for model in campaign.models if _all_wanted(catalogue, campaign) else campaign.models[:1]:
        habitats.append(settle(str(model), campaign, say))
    return plan_cases(catalogue, habitats, instances=campaign.instances, clean=campaign.clean, tokens=campaign.tokens)


def settle(model: str, campaign: Campaign, say: Tell) -> Habitat:
    """One model: what the healthy engine is on it, its floor, the prompts apart from that."""
    say("prepare", f"{campaign.engine}:{model}", None)
    with ProcessRunner(f"{campaign.engine}:{model}") as engine:
        info = engine.describe()
    pool = read_pool(campaign.prompts, vocab=info.hyper.get("vocab"))
    floor = find_floor(info, (*campaign.floors, campaign.out / "floors"))
    if floor is None:
        say("prepare", f"noise floor of {info.recipe.name}", None)
        floor = make_floor_for(info, model, pool, campaign.out / "floors")
    apart = apart_from(pool, floor.floor)
    if not apart:
        raise UsageError(
            place="zoo prompts",
            expected="prompts of documents that the noise floor was not calibrated on",
            found=f"none among {len(pool)}",
            next_step="Name a folder of other prompts with --prompts.",
        )
    return Habitat(model, info, floor, tuple(apart))


def _all_wanted(catalogue: Catalogue, campaign: Campaign) -> bool:
    """Whether another model than the first may be needed."""
    return campaign.clean > 1 or any(exhibit.fault.needs for exhibit in catalogue.exhibits)


def _task(case: Case, campaign: Campaign) -> dict[str, Any]:
    return {
        "investigator": campaign.investigator,
        "engine": f"{campaign.engine}:{case.habitat.model}",
        "options": {} if case.spec is None else {"fault": case.spec},
        "model": case.habitat.model,
        "floor": str(case.habitat.floor.path),
        "prompt": case.request.name,
        "ids": case.request.ids,
        "chunk": case.schedule.chunk,
        "decode": case.schedule.decode,
        "new_tokens": campaign.new_tokens,
        "threads": campaign.threads,
        "claim": None if case.fault is None else case.fault.claim,
    }


def _described(case: Case) -> dict[str, Any]:
    return {
        "kind": case.kind,
        "name": case.name,
        "seed": case.seed,
        "model": case.habitat.model,
        "prompt": case.request.name,
        "chunk": case.schedule.chunk,
        "decode": case.schedule.decode,
    }


def _settings(campaign: Campaign, plan: Plan, code: str) -> dict[str, Any]:
    habitats: Sequence[Habitat] = list({case.habitat.model: case.habitat for case in plan.cases}.values())
    return {
        "code": code,
        "engine": campaign.engine,
        "investigator": campaign.investigator,
        "instances": campaign.instances,
        "tokens": campaign.tokens,
        "new_tokens": campaign.new_tokens,
        "timeout": campaign.timeout,
        "planned": tested(plan.cases),
        "models": {
            habitat.model: {
                "recipe": habitat.info.recipe.name,
                "floor": habitat.floor.floor.sentence(),
                "power_on_record": bool(habitat.floor.floor.power),
                "prompts": len(habitat.pool),
                "environment": habitat.info.environment,
            }
            for habitat in habitats
        },
    }
