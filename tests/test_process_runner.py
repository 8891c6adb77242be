"""An engine in a child process: same results, errors and traces come back whole, a death is named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.errors import RunnerError, UsageError
from parity.process_runner import ProcessRunner
from parity.records import Capture, Environment, Lineage, Recipe, Rows, Run
from parity.runner import CapturePlan, Generation, Request, open_runner
from parity.trace import MemoryTrace, TraceWriter, open_trace

RECIPE = Recipe("fp32", "fp32", "fp32", "fp32", "fp32", "fp32", "fp32")
HERE = Environment("3", "2", None, None, "", "", 1, "cpu", False)


class Toy:
    """A runner that knows three things: to answer, to refuse and to die."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.on_step: Any = None

    def generate(self, request: Request, *, max_new_tokens: int, schedule: Any) -> Generation:
        for step in range(max_new_tokens):
            self.on_step("generate", step + 1, max_new_tokens)
        return Generation(request.ids[-max_new_tokens:], self.model)

    def forward(self, requests: tuple[Request, ...], *, schedule: Any, capture: CapturePlan, graft: Any) -> Any:
        run = Run("qwen3_moe", self.model, 1, ("a",), (requests[0].ids,), RECIPE, Lineage("x"), HERE)
        if capture.out is None:
            return MemoryTrace(run, (), {})
        with_rows = Rows(torch.zeros(2, dtype=torch.int32).numpy(), torch.arange(2).numpy())
        writer = TraceWriter(capture.out, run)
        writer.add(
            Capture(0, "final_norm", None, "prefill", 0, 0, ("T", "D"), "float32", (2, 3), with_rows), torch.ones(2, 3)
        )
        writer.close()
        return open_trace(capture.out)

    def describe(self) -> Any:
        raise UsageError(place="toy", expected="a question", found="describe", next_step="Ask another.")


def open_toy(model: str) -> Toy:
    return Toy(model)


def die(runner: Toy) -> None:
    os._exit(3)


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> str:
    """The toy under a name that the child can find as well."""
    here = Path(__file__)
    monkeypatch.syspath_prepend(str(here.parent))
    monkeypatch.setitem(sys.modules, here.stem, sys.modules[__name__])
    for thing in (Toy, open_toy, die):
        monkeypatch.setattr(thing, "__module__", here.stem)
    return f"{here.stem}.open_toy:model-x"


def test_answers_steps_errors_and_traces_come_back(spec: str, tmp_path: Path):
    steps: list[tuple[str, int, int]] = []
    with ProcessRunner(spec, on_step=lambda *step: steps.append(step)) as runner:
        assert runner.generate(Request("a", (1, 2, 3)), max_new_tokens=2) == Generation((2, 3), "model-x")
        with pytest.raises(UsageError, match="Ask another") as error:
            runner.describe()
        assert error.value.found == "describe"
        assert runner.forward([Request("a", (1, 2))], capture=CapturePlan()).run.requests == ((1, 2),)
        trace = runner.forward([Request("a", (1, 2))], capture=CapturePlan(out=tmp_path / "trace"))
        assert trace.tensor(trace.captures[0]).tolist() == [[1.0] * 3] * 2
        assert trace.complete
    assert steps == [("generate", 1, 2), ("generate", 2, 2)]


def test_a_dead_engine_is_named(spec: str):
    with ProcessRunner(spec) as runner, pytest.raises(RunnerError, match="it died"):
        runner.call(die)


def test_an_engine_that_does_not_open_is_named():
    with ProcessRunner("nowhere:model") as runner, pytest.raises(RunnerError, match="nowhere"):
        runner.describe()


def test_a_progress_bar_that_fails_stops_nothing(spec: str):
    def fail(*step: object) -> None:
        raise ValueError("no bar")

    with ProcessRunner(spec, on_step=fail) as runner:
        # More steps than a pipe holds: a listener that died would leave the child waiting for ever.
        made = runner.generate(Request("a", (1,)), max_new_tokens=20_000)
    assert made.text == "model-x"


def test_a_missing_function_is_named(spec: str):
    with pytest.raises(RunnerError, match="no_such"):
        open_runner(spec.replace("open_toy", "no_such"))


def open_slowly(model: str) -> Toy:
    time.sleep(120)
    return Toy(model)


def test_an_error_waits_for_no_engine_that_is_still_opening(spec: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(open_slowly, "__module__", Path(__file__).stem)
    begin = time.monotonic()
    with pytest.raises(KeyError), ProcessRunner(spec.replace("open_toy", "open_slowly")):
        raise KeyError("a slip")
    # Without its end it would be waited for: two minutes, against the seconds in which a process starts.
    assert time.monotonic() - begin < 60


def test_torch_is_not_needed_to_start_a_child():
    """An engine opens while the lab imports torch: from here on it may not be imported first."""
    asked = "import sys, parity.process_runner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def test_a_child_ends_with_a_parent_that_is_killed(spec: str):
    """It would go on writing the trace that a resumed run is about to make anew."""
    begin = f"""if __name__ == "__main__":
    import time
    from parity.process_runner import ProcessRunner
    runner = ProcessRunner({spec!r})
    print(next(iter(runner._pool._processes)), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", begin], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _runs(child)
        parent.kill()
    until = time.monotonic() + 20
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    """Whether that process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
