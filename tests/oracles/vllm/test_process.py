"""Does an engine's process answer, and does whatever goes wrong there arrive as an error that says so?"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

import parity.errors
from parity.errors import ParityError, RunnerError, UsageError
from parity.records import Environment, Lineage, Recipe
from parity.runner import CapturePlan, Graft, Request, RunnerInfo, Schedule, open_runner
from parity_oracles.vllm import opening, wire
from parity_oracles.vllm.child import ChildRunner
from parity_oracles.vllm.worker import serve

HERE = Path(__file__).resolve().parent
INFO = RunnerInfo(
    name="vllm", family="qwen3_moe", layers=2, hyper={"vocab": 23}, recipe=Recipe("bf16", *["bf16"] * 6),
    lineage=Lineage("sha256:0", ("to fp8",)), environment=Environment("3", "2", None, None, "p", "c", 1, "cpu", False),
    stages=("attn.q", "logits"), can=frozenset({"forward", "chunk"}), variants={"op": ("a", "b")},
    inner=frozenset({"attn.q"}), bound=frozenset({"w"}),
)  # fmt: skip


def test_records_cross_the_pipe_unchanged():
    def crossed(message: Any) -> Any:
        return wire.read_line(wire.write_line({"it": message}))["it"]

    assert wire.decode_info(crossed(wire.encode_info(INFO))) == INFO
    requests = (Request("a", (1, 2), cached=1), Request("b", ()))
    assert wire.decode_requests(crossed(wire.encode_requests(requests))) == requests
    schedule = Schedule(chunk=3, decode=1)
    assert wire.decode_schedule(crossed(wire.encode_schedule(schedule))) == schedule
    plan = CapturePlan((0, 2), ("moe.*",), "3:5", "tensor", Path("/x/y"))
    assert wire.decode_plan(crossed(wire.encode_plan(plan, plan.out))) == plan
    assert wire.decode_plan(crossed(wire.encode_plan(None, None))) is None


@pytest.mark.parametrize("kind", ["UsageError", "ProbeError", "TraceError"])
def test_errors_cross_as_what_they_are(kind: str):
    error = getattr(parity.errors, kind)(place="p", expected="e", found="f", next_step="n")
    back = wire.decode_error(wire.encode_error(error))
    assert type(back) is type(error)
    assert str(back) == str(error)


@pytest.mark.parametrize("kind", ["Any", "SystemExit", "nothing"])
def test_an_error_of_no_kind_of_ours_is_a_runner_error(kind: str):
    given = {"kind": kind, "place": "p", "expected": "e", "found": "f", "next_step": "n"}
    assert type(wire.decode_error(given)) is RunnerError
    assert "ZeroDivisionError: by nothing" in str(wire.decode_error(wire.encode_error(ZeroDivisionError("by nothing"))))


@pytest.mark.parametrize("line", [b"INFO loading\n", b"[1]\n", b"\n", b"\xff\n"])
def test_what_is_no_message_is_refused(line: bytes):
    with pytest.raises(RunnerError, match="a message"):
        wire.read_line(line)


@pytest.fixture(scope="module")
def child():
    with ChildRunner(sys.executable, {"mood": "well"}, worker="toy_worker", path=[str(HERE)], timeout=60) as runner:
        yield runner


def test_a_process_answers(child: ChildRunner):
    assert child.describe() == INFO
    assert child.unobservable == {"moe.gate": "inside"}
    steps = []
    child.on_step = lambda *event: steps.append(event)
    assert child.generate(Request("a", (5,)), max_new_tokens=2).ids == (5, 5)
    assert steps == [("generate", 1, 2)]


def test_a_trace_comes_through_a_folder_and_stays_when_the_folder_goes(child: ChildRunner, tmp_path: Path):
    trace = child.forward([Request("a", (5, 6))], capture=CapturePlan(stages=("logits",)))
    (capture,) = trace.captures
    assert trace.tensor(capture)[:, 0].tolist() == [5.0, 6.0]
    kept = child.forward([Request("a", (5, 6))], capture=CapturePlan(stages=("logits",), out=tmp_path / "kept"))
    assert (tmp_path / "kept" / "manifest.jsonl").is_file()
    assert kept.tensor(kept.captures[0]).tolist() == trace.tensor(capture).tolist()
    assert child.forward([Request("a", (5, 6))]).captures == ()


def test_an_error_inside_is_raised_here_and_the_process_goes_on(child: ChildRunner):
    with pytest.raises(UsageError, match="found 13"):
        child.forward([Request("bad", (13,))], capture=CapturePlan())
    assert child.generate(Request("a", (5,)), max_new_tokens=1).ids == (5,)


def test_what_does_not_cross_is_refused_here(child: ChildRunner):
    with pytest.raises(RunnerError, match="graft"):
        child.forward([Request("a", (5,))], graft=[Graft(0, "attn.q", None, None)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunnerError, match="padding"):
        child.forward([Request("a", (5,))], schedule=Schedule(padding=2))


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("dies", "ended with code 3; the end of its log: out of memory"),
        ("silent", "an answer within 1 s"),
    ],
)
def test_a_process_that_does_not_open_is_told_with_its_log(mood: str, said: str):
    with pytest.raises(ParityError, match=said):
        ChildRunner(
            sys.executable, {"mood": mood}, worker="toy_worker", path=[str(HERE)], timeout=1 if mood == "silent" else 60
        )


def served(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What the worker answers, without a process around it."""
    answers = BytesIO()

    def refuse(**options: Any) -> Any:
        raise RunnerError(place="toy", expected="a model", found=str(options), next_step="None.")

    serve(BytesIO(b"".join(map(wire.write_line, messages)) + b"no message\n"), answers, refuse)
    return [wire.read_line(line) for line in answers.getvalue().splitlines()]


def test_a_model_that_does_not_open_and_a_line_that_is_none_are_answers():
    refused, junk = served({"do": "open", "options": {"folder": "nowhere"}})
    assert "nowhere" in refused["error"]["found"]
    assert "no message" in junk["error"]["found"]


def test_an_order_that_nobody_knows_is_an_answer():
    assert "fly" in str(served({"do": "fly"})[0])


def test_a_process_that_dies_later_is_told(tmp_path: Path):
    with ChildRunner(sys.executable, {"mood": "well"}, worker="toy_worker", path=[str(HERE)], timeout=60) as runner:
        with pytest.raises(RunnerError, match="ended with code 4"):
            runner.scale_parameter("die", 0, 1.0)
        with pytest.raises(RunnerError, match="ended with code 4"):
            runner.generate(Request("a", (5,)), max_new_tokens=1)


def test_no_interpreter_is_told(tmp_path: Path):
    with pytest.raises(RunnerError, match="an interpreter at"):
        ChildRunner(str(tmp_path / "python"), {})


def test_no_environment_is_told_with_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opening, "is_installed", lambda: False)
    monkeypatch.setenv(opening.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(RunnerError, match="make engines-vllm"):
        open_runner(f"vllm:{tmp_path}")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"dtype": "float8"}, "one of auto, float32"),
        ({"chunk": "0"}, "at least 1"),
        ({"max_model_len": "many"}, "whole number"),
        ({"arguments": "[]"}, "a JSON object"),
        ({"arguments": "{"}, "a JSON object"),
        ({"dtyp": "float32"}, "Did you mean dtype"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, option: dict[str, str], said: str):
    with pytest.raises(UsageError, match=said):
        open_runner(f"vllm:{tmp_path}", **option)


def test_a_model_that_is_no_folder_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="a model folder"):
        open_runner(f"vllm:{tmp_path / 'none'}")
