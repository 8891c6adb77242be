"""Cases run each by itself: a crash, a hang or a bad file is on record and in nobody's way."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from parity.errors import UsageError
from parity.records import Finding, Slice, as_json
from parity.zoo import Campaign, collect_faults, run_zoo
from parity.zoo.campaign import prepare, settle
from parity.zoo.cases import Habitat, plan_cases
from parity.zoo.launch import CaseProcesses
from parity.zoo.outcome import Outcome, read_finding, start_journal


def campaign(world: Path, **more) -> Campaign:
    return Campaign(
        out=world / "out",
        models=(world / "model",),
        engine="zoo_stub.open_engine",
        prompts=(world / "prompts",),
        floors=(world / "floors",),
        investigator="zoo_stub:answer",
        tokens=(40, 50),
        timeout=120,
        **more,
    )


def test_everything_is_recorded_and_resumed(stub_world: Path):
    catalogue = collect_faults([stub_world / "faults"])
    assert len(catalogue.problems) == 2
    started: list[str] = []
    on_disk: list[int] = []

    def tell(what: str, label: str, outcome: Outcome | None) -> None:
        started.extend([label] if what == "start" else [])
        path = stub_world / "out" / "zoo.json"
        on_disk.append(len(json.loads(path.read_text())["pending"]) if path.is_file() else 6)

    result = run_zoo(catalogue, campaign(stub_world, jobs=2, clean=1), tell=tell)
    assert len(set(on_disk)) > 2, "the result of what is known lies on the disk while the rest runs"
    faults = {one.name: one for one in result.faults}
    assert {name: one.detected for name, one in faults.items()} == {
        "found_right": True, "overlooked": False, "dies": False,
    }  # fmt: skip
    right = faults["found_right"]
    assert (right.localized, right.sliced, right.cause_named, right.proved) == (True, True, True, True)
    assert (faults["dies"].status, "code 3" in faults["dies"].error, "about to die" in faults["dies"].error) == (
        "failed", True, True,
    )  # fmt: skip
    assert {one.name: one.blamed for one in result.controls} == {"blamed_control": True, "silent_control": False}
    assert [one.alarm for one in result.clean] == [False]
    assert [one.name for one in result.not_run] == ["homeless"]
    assert result.exit_code == 2, "two faults cannot be used"
    assert all("text-0" not in one.prompt for one in (*result.faults, *result.clean)), "the floor has seen it"
    summary = result.summary()
    assert (summary["detected"].count, summary["detected"].of) == (1, 3)
    assert (summary["controls_blamed"].count, summary["false_alarms"].count, summary["failed"]) == (1, 0, 1)
    written = json.loads((stub_world / "out" / "zoo.json").read_text())
    assert set(written) >= {"faults", "controls", "clean", "summary", "problems", "not_run"}
    assert set(written["faults"][0]) >= {
        "name", "detected", "localized", "cause_named", "proved", "seconds", "finding", "truth",
    }  # fmt: skip
    assert len(started) == 6

    # Cut in the middle of a line, with one case lost: that one alone is run again.
    journal = stub_world / "out" / "outcomes.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    lost = next(line for line in lines if "overlooked" in line)
    journal.write_text("".join(line for line in lines if line is not lost) + lost[:40])
    started.clear()
    again = run_zoo(catalogue, campaign(stub_world, resume=True, clean=1), tell=tell)
    assert started == ["overlooked@0"]
    assert {one.name: one.detected for one in again.faults} == {name: one.detected for name, one in faults.items()}


def test_a_campaign_ends_in_its_time(stub_world: Path):
    found = collect_faults([stub_world / "faults"], only=["overlooked", "found_right"])
    late = replace(campaign(stub_world, within=2.0), investigator="zoo_stub:hang")
    result = run_zoo(replace(found, problems=()), late)
    assert set(result.pending) == {"overlooked@0", "found_right@0"}
    assert (result.faults, result.exit_code, result.summary()["pending"]) == ((), 1, 2)
    written = json.loads((stub_world / "out" / "zoo.json").read_text())
    assert (set(written["pending"]), written["faults"]) == (set(result.pending), [])


def test_an_interruption_leaves_no_outcome_of_what_it_ended(stub_world: Path):
    started: list[str] = []

    def interrupt(what: str, label: str, outcome: Outcome | None) -> None:
        started.extend([label] if what == "start" else [])
        if len(started) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_zoo(collect_faults([stub_world / "faults"]), campaign(stub_world, jobs=2), tell=interrupt)
    assert start_journal(stub_world / "out", resume=True).known == {}
    assert not (stub_world / "out" / "zoo.json").exists()


def test_another_file_or_prompt_is_another_case(stub_world: Path):
    habitat = settle(str(stub_world / "model"), campaign(stub_world), lambda *_: None)

    def keys(habitat: Habitat = habitat, code: str = "code") -> set[str]:
        catalogue = collect_faults([stub_world / "faults"])
        plan = plan_cases(catalogue, [habitat], instances=1, clean=2, tokens=(40, 50))
        return {case.key(code) for case in plan.cases}

    first = keys()
    assert len(first) == 7
    assert keys() == first
    assert not keys(code="other code") & first
    pool = tuple(replace(prompt, ids=tuple(token + 20 for token in prompt.ids)) for prompt in habitat.pool)
    assert not keys(replace(habitat, pool=pool)) & first
    file = stub_world / "faults" / "all.py"
    file.write_text(file.read_text() + "# changed\n")
    assert len(keys() & first) == 2, "the clean runs are the same"


def test_time_runs_out(stub_world: Path):
    with CaseProcesses() as processes:
        outcome = processes.run({}, stub_world / "case", timeout=0.2, threads=1)
    assert outcome.status == "timeout"
    assert 0.2 <= outcome.seconds < 20


def test_everything_that_a_case_started_ends_with_it(stub_world: Path):
    task = {
        "investigator": "zoo_stub:hang", "engine": "x:y", "options": {}, "model": str(stub_world), "floor": "",
        "prompt": "p", "ids": [1], "chunk": None, "decode": 0, "new_tokens": 1, "threads": 1, "claim": None,
    }  # fmt: skip
    outcomes: list[Outcome] = []
    with CaseProcesses() as processes:
        thread = threading.Thread(
            target=lambda: outcomes.append(processes.run(task, stub_world / "case", timeout=120, threads=1))
        )
        thread.start()
        marker = stub_world / "grandchild"
        while not (marker.is_file() and marker.read_text()) and thread.is_alive():
            time.sleep(0.05)
    thread.join(timeout=30)
    assert [one.status for one in outcomes] == ["failed"]
    status = Path(f"/proc/{marker.read_text()}/status")
    gone = not status.exists() or "State:\tZ" in status.read_text()
    assert gone, "a process of the case still runs"


def test_a_finding_survives_its_json():
    finding = Finding(
        "fault", "replay", (1, 2), "moe.up", Slice(experts=(3,), columns=(0, 64)), "constant ratio",
        over_floor=2.5, proof={"proved": True}, alternatives=("x",),
    )  # fmt: skip
    assert read_finding(json.loads(json.dumps(as_json(finding)))) == finding


def test_an_earlier_journal_is_moved_aside(tmp_path: Path):
    first = start_journal(tmp_path, resume=False)
    first.append("k", {}, Outcome("done", 1.0, finding=Finding("clean", "replay")))
    assert start_journal(tmp_path, resume=True).known["k"].finding == Finding("clean", "replay")
    assert start_journal(tmp_path, resume=False).known == {}
    assert (tmp_path / "outcomes.1.jsonl").read_text()


def test_nothing_to_run_is_refused(stub_world: Path):
    with pytest.raises(UsageError, match="neither"):
        run_zoo(collect_faults([stub_world / "prompts"]), campaign(stub_world))
    with pytest.raises(UsageError, match="--only"):
        collect_faults([stub_world / "faults"], only=["no such fault"])
    with pytest.raises(UsageError, match="at least 100 tokens"):
        run_zoo(collect_faults([stub_world / "faults"]), replace(campaign(stub_world), tokens=(100, 200)))


def test_instances_that_fail_are_problems(stub_world: Path):
    (stub_world / "faults" / "all.py").write_text(
        "from parity.faults import Fault\n"
        "FAULTS = [Fault('one', 'qwen3_moe', '', None, None, control=True, op='router', wrap=lambda op: op,\n"
        "                instances=lambda seed, hyper: 1 / 0)]\n"
    )
    plan = prepare(
        collect_faults([stub_world / "faults" / "all.py"]), campaign(stub_world, instances=2), lambda *_: None
    )
    assert [case.label for case in plan.cases] == ["one@0"]
    assert ["ZeroDivisionError" in str(problem) for problem in plan.problems] == [True]
