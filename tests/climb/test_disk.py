"""An investigation that is stopped, killed or refused: what is on disk is whole, and nothing is run twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity.climb import Case, Investigation, investigate
from parity.climb.ask import ask_case
from parity.climb.estimate import estimate_case
from parity.climb.folklore import FOLKLORE
from parity.climb.rung import RungResult
from parity.errors import UsageError
from parity.records import Lineage
from parity.runner import CapturePlan, Request, open_runner

Climb = Callable[..., Investigation]
STAGES = (0, 1, 3, 7, 8)
"""Rungs left out where a test is about the folder and not about what they find."""

KILLED = """
import json, os, signal, sys, time
from pathlib import Path
from parity.climb import Case, investigate
from parity.reading import read_record

def hear(rung, result):
    if result is None and rung.number == 4:
        print("sweeping", flush=True)
        time.sleep(60)

case = read_record(Case, json.loads(Path(sys.argv[1]).read_text()))
from parity.runner import open_runner
investigate(case, sys.argv[2], sut=open_runner(case.sut, order=3), hear=hear)
"""


def test_a_killed_climb_goes_on_where_it_was(case: Case, exact: Any, tmp_path: Path):
    from parity.records import as_json

    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps(as_json(case)))
    out = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(asked), str(out)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "sweeping\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (out / "rungs").iterdir()}
    assert sorted(before) == ["00-prompt.json", "01-audit.json", "02-symptom.json", "03-invariances.json"]
    assert len(Investigation.read(out).results) == 4
    with pytest.raises(UsageError, match="--resume"):
        investigate(case, out, oracle=exact)
    with pytest.raises(UsageError, match="another one"):
        investigate(replace(case, new_tokens=4), out, oracle=exact, resume=True)
    found = investigate(case, out, sut=open_runner(case.sut, order=3), oracle=exact, resume=True)
    assert found.finding.verdict == "clean"
    after = {path.name: path.stat().st_mtime_ns for path in (out / "rungs").iterdir()}
    assert len(after) == 9
    assert {name: after[name] for name in before} == before
    assert len(found.ledger.hypotheses) == len(found.ledger.tests()) == 9 + len(FOLKLORE)


def test_a_whole_investigation_is_read_back_without_an_engine(climb_on: Climb, case: Case, exact: Any):
    first = climb_on(skip=STAGES)

    class Dead:
        """An engine that nothing may ask to compute."""

        def describe(self) -> Any:
            return open_runner(case.sut).describe()

    again = investigate(case, first.folder, sut=Dead(), oracle=exact, resume=True)
    assert again.results == first.results


def test_a_withdrawn_test_is_run_again_and_what_rested_on_it(climb_on: Climb, case: Case, exact: Any):
    found = climb_on(skip=STAGES)
    opened = found.ledger.withdraw("T5", because="the floor was of another checkpoint")
    ledger = found.ledger
    raised = {one.id: one.raised_by for one in ledger.hypotheses}
    assert [raised[one] for one in opened if raised[one] != "built in"] == [
        "rung 4 sweep",
        "rung 5 replay",
        "rung 6 zoom",
    ]
    noise = next(one.id for one in ledger.hypotheses if one.claim == FOLKLORE[0].claim)
    assert noise in opened, "what rested on the withdrawn numbers"
    files = sorted((found.folder / "rungs").iterdir())
    before = [path.stat().st_mtime_ns for path in files]
    again = investigate(case, found.folder, sut=open_runner(case.sut, order=3), oracle=exact, resume=True, skip=STAGES)
    written = {path.name for path, then in zip(files, before, strict=True) if path.stat().st_mtime_ns != then}
    assert written >= {"04-sweep.json", "05-replay.json"}
    ids = {by: one for one, by in raised.items()}
    assert len(again.ledger.tests(ids["rung 4 sweep"])) == 2
    assert len(again.ledger.tests(ids["rung 2 symptom"])) == 1
    assert [test.verdict.value for test in again.ledger.tests(noise)] == ["supported", "supported"]
    assert again.finding.verdict == "clean"


def test_a_trace_alone_is_judged_as_far_as_it_goes(bf16_model: Path, case: Case, exact: Any, tmp_path: Path):
    engine = open_runner(case.sut, order=3)
    engine.forward([case.request], capture=CapturePlan(out=tmp_path / "trace"))
    alone = replace(case, sut=f"trace:{tmp_path / 'trace'}")
    found = investigate(alone, tmp_path / "out", oracle=exact)
    status = {one.name: one.status.value for one in found.results}
    assert status == {
        "prompt": "NOT_RUN", "audit": "NOT_RUN", "symptom": "NOT_RUN", "invariances": "ruled_out", "sweep": "ruled_out",
        "replay": "ruled_out", "zoom": "ruled_out", "proof": "NOT_RUN", "fixture": "NOT_RUN",
    }  # fmt: skip
    assert found.finding.verdict == "clean"
    rung = found.rung(3)
    assert rung is not None
    assert len(rung.rules_out) == 1, "this trace states no launch: sums alone can be judged"
    assert rung.rules_out[0].startswith("sums")
    assert any("a trace does not decode" in one for one in found.finding.not_excluded)
    assert all(one.forwards == 0 for one in found.results)


def test_a_trace_of_a_faulty_engine_is_a_fault_that_is_not_repeated(
    climb_on: Climb, case: Case, exact: Any, tmp_path: Path
):
    faulty = climb_on({(0, "mlp.norm"): lambda x: (x.float() * 1.2).to(x.dtype)}, skip=STAGES)
    shutil.copytree(faulty.folder / "traces" / "sut", tmp_path / "trace")
    found = investigate(replace(case, sut=f"trace:{tmp_path / 'trace'}"), tmp_path / "out", oracle=exact)
    assert (found.finding.verdict, found.finding.stage, found.finding.layers) == ("fault", "mlp.norm", (0,))
    assert found.finding.evidence["repetition"].startswith("not repeated")
    assert found.fix == ""
    assert "rung 2" in found.withheld


@pytest.mark.parametrize("what", ["family", "weights", "floor"])
def test_unrelated_runners_are_refused(case: Case, exact: Any, tmp_path: Path, what: str):
    engine = open_runner(case.sut, order=3)
    info = engine.describe()
    other = {
        "family": replace(info, family="llama"),
        "weights": replace(info, lineage=Lineage("sha256:other")),
        "floor": replace(info, recipe=replace(info.recipe, name="fp8_block")),
    }[what]
    engine.describe = lambda: other  # type: ignore[method-assign]
    with pytest.raises(UsageError, match={"family": "llama", "weights": "other", "floor": "fp8_block"}[what]):
        investigate(case, tmp_path / "out", sut=engine, oracle=exact)
    assert not list((tmp_path / "out").iterdir()), "another try may have the folder"


def test_an_oracle_that_cannot_replay_does_what_it_can(climb_on: Climb, case: Case, exact: Any, tmp_path: Path):
    class Mute:
        """The oracle without its replay."""

        def __getattr__(self, name: str) -> Any:
            return getattr(exact, name)

        def describe(self) -> Any:
            info = exact.describe()
            return replace(info, can=info.can - {"replay"})

    found = investigate(case, tmp_path / "out", sut=open_runner(case.sut, order=3), oracle=Mute(), skip=(0, 1, 2, 3))
    status = {one.name: (one.status.value, one.sentence) for one in found.results}
    assert status["sweep"][0] == "ruled_out"
    assert status["replay"] == ("NOT_RUN", "the oracle cannot replay a stage alone")
    assert found.finding.verdict == "unresolved"
    assert found.exit_code == 2


def test_an_engine_that_fails_under_a_check_leaves_the_others(climb_on: Climb):
    def broken(x: Any) -> Any:
        if len(x) == 72:
            raise ValueError("the arena is too small")
        return x

    found = climb_on({(0, "attn.norm"): broken}, skip=(0, 1, 2, 4, 5, 6, 7, 8))
    outcomes = found.results[3].numbers["outcomes"]
    assert (outcomes["history"], outcomes["chunks"]) == ("held", "not_run")
    assert any("the arena is too small" in one for one in found.results[3].leaves_open)


def test_the_dry_run_states_every_rung_and_opens_nothing(bf16_model: Path, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr("parity.climb.investigation.open_runner", lambda *a, **k: pytest.fail("opened"))
    case = ask_case(sut=f"recipe:{bf16_model}", oracle=f"hf:{bf16_model}", request=Request("r", tuple(range(64))))
    plan = estimate_case(case, skip=(8,))
    assert [row.number for row in plan.rungs] == list(range(9))
    assert plan.rungs[8].obstacle == "left out"
    assert plan.seconds == pytest.approx(sum(row.seconds for row in plan.rungs))
    assert plan.seconds > 1
    assert plan.memory_bytes > 1e6
    assert case.oracle_options == {"dtype": "float32"}


def test_a_case_needs_a_prompt_and_ids_need_their_messages(bf16_model: Path, tmp_path: Path):
    names: dict[str, Any] = {"sut": f"recipe:{bf16_model}", "oracle": f"hf:{bf16_model}"}
    with pytest.raises(UsageError, match="--prompt"):
        ask_case(**names, request=None)
    with pytest.raises(UsageError, match="--messages"):
        ask_case(**names, request=Request("r", (1, 2)), sut_ids=tmp_path / "ids.json")
    with pytest.raises(UsageError, match="coverage"):
        ask_case(**names, request=Request("r", (1, 2)), checks=("covrage",))


def test_seconds_are_measured(climb_on: Climb):
    start = time.monotonic()
    found = climb_on(skip=(0, 1, 2, 3, 5, 6, 7, 8))
    assert 0 < found.seconds <= time.monotonic() - start
    assert all(isinstance(one, RungResult) for one in found.results)
