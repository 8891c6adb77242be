"""vLLM in a process of its own, with the Python and the packages of its own environment; same calls, same results."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import parity
import parity_oracles
from parity.errors import RunnerError
from parity.records import Run
from parity.runner import (
    CapturePlan,
    ComputedGraft,
    Generation,
    Graft,
    Request,
    RunnerInfo,
    Schedule,
    check_schedule,
)
from parity.trace import MemoryTrace, Trace, open_trace
from parity_oracles.vllm.wire import (
    decode_error,
    decode_info,
    encode_plan,
    encode_requests,
    encode_schedule,
    read_line,
    write_line,
)
from parity_oracles.vllm.wire_grafts import encode_grafts

WORKER = "parity_oracles.vllm.worker"


class ChildRunner:
    """A runner behind a pipe: `python -m parity_oracles.vllm.worker` with the lab's packages on its path.

    python: the interpreter of the engine's environment. options: of `opening.open_here`, plain values.
    timeout: seconds for an answer. worker: the module that serves; path: more places to find it in.
    Raises RunnerError when the process dies or does not answer in time (it is ended then), with the end of its log; and
    whatever the runner inside raises.
    """

    def __init__(
        self,
        python: str,
        options: Mapping[str, Any],
        *,
        timeout: float = 1800.0,
        worker: str = WORKER,
        path: Sequence[str] = (),
    ) -> None:
        self.on_step: Callable[[str, int, int], None] | None = None
        self._python, self._timeout = python, timeout
        self._folder = tempfile.TemporaryDirectory(prefix="parity-vllm-")
        self._log = Path(self._folder.name) / "log"
        self._traces = 0
        # Links, not the folders that hold the packages: those may hold another torch besides.
        for package in (parity, parity_oracles):
            home = Path(next(iter(package.__path__))).resolve()
            (Path(self._folder.name) / home.name).symlink_to(home)
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [python, "-m", worker],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={
                        **os.environ,
                        "PYTHONPATH": os.pathsep.join((self._folder.name, *path)),
                        "PYTHONSAFEPATH": "1",
                    },
                )
        except OSError as error:
            self._folder.cleanup()
            raise self._wrong(f"an interpreter at {python}", str(error), "Correct the option python.") from error
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._ask({"do": "open", "options": dict(options)})
            self._info = decode_info(self._ask({"do": "describe"}))
        except BaseException:
            self.close()
            raise

    def describe(self) -> RunnerInfo:
        return self._info

    @property
    def unobservable(self) -> dict[str, str]:
        """Stages of the family that the engine does not show, with the reason."""
        return self._ask({"do": "unobservable"})

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
    ) -> Trace:
        """As the runner inside; a trace that is not kept on disk is read into memory."""
        self._refuse(requests, schedule, graft)
        folder = None
        capture = CapturePlan(stages=("logits",)) if capture is None and graft else capture
        if capture is not None:
            self._traces += 1
            folder = capture.out or (
                Path(self._folder.name) / f"trace{self._traces}" if capture.mode == "tensor" else None
            )
            folder = None if folder is None else folder.resolve()
        asked = {"requests": encode_requests(requests), "schedule": encode_schedule(schedule)}
        self._ask({"do": "forward", **asked, "plan": encode_plan(capture, folder), "grafts": self._sent(graft)})
        if capture is None or folder is None or capture.mode == "stats":
            return MemoryTrace(self._empty_run(requests), (), {})
        trace = open_trace(folder)
        if capture.out is not None:
            return trace
        tensors = {c.number: trace.tensor(c).clone() for c in trace.captures}
        return MemoryTrace(trace.run, trace.captures, tensors, complete=trace.complete)

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Any = None,
    ) -> Generation:
        """As the runner inside."""
        self._refuse([request], schedule, graft)
        if sampling is not None and not sampling.greedy:
            raise self._wrong("greedy decoding", repr(sampling), "Leave sampling out.")
        made = self._ask({
            "do": "generate", "requests": encode_requests([request]), "schedule": encode_schedule(schedule),
            "new": max_new_tokens, "grafts": self._sent(graft),
        })  # fmt: skip
        return Generation(tuple(made["ids"]), made["text"], made["sampler"])

    def scale_parameter(self, name: str, index: int, factor: float) -> None:
        """As the runner inside: a fault planted into the engine's memory."""
        self._ask({"do": "scale_parameter", "name": name, "index": index, "factor": factor})

    def close(self) -> None:
        """End the process, and remove its folder."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):  # it died before it read everything
                self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(write_line(message))
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._died() from error
        while True:
            try:
                line = self._lines.get(timeout=self._timeout)
            except queue.Empty:
                self._process.kill()
                raise self._wrong(
                    f"an answer within {self._timeout:g} s", f"none; {self._tail()}", "Give a larger timeout."
                ) from None
            if not line:
                raise self._died()
            answer = read_line(line)
            if "step" in answer:
                if self.on_step is not None:
                    self.on_step(*answer["step"])
                continue
            if "error" in answer:
                raise decode_error(answer["error"])
            return answer["ok"]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _empty_run(self, requests: Sequence[Request]) -> Run:
        info = self._info
        return Run(
            family=info.family,
            model="vllm",
            layers=info.layers,
            request_names=tuple(r.name for r in requests),
            requests=tuple(r.ids for r in requests),
            recipe=info.recipe,
            lineage=info.lineage,
            environment=info.environment,
            hyper=info.hyper,
        )

    def _refuse(self, requests: Sequence[Request], schedule: Schedule, graft: Sequence[object]) -> None:
        """What does not cross the pipe is refused here, lest it be left out in silence."""
        check_schedule(schedule, requests, can=self._info.can, runner="vllm")
        if graft and "graft" not in self._info.can:
            raise self._wrong("an engine that takes grafts", f"{len(graft)} of them", "Leave enforce_eager on.")

    def _sent(self, graft: Sequence[Graft | ComputedGraft]) -> dict[str, Any] | None:
        return encode_grafts(graft, Path(self._folder.name) / "grafts.safetensors") if graft else None

    def _died(self) -> RunnerError:
        code = self._process.wait()
        return self._wrong(
            "the engine's process to answer", f"it ended with code {code}; {self._tail()}", "See its log."
        )

    def _tail(self) -> str:
        try:
            text = self._log.read_text(errors="replace")
        except OSError:
            return "no log"
        return "the end of its log: " + text[-1500:].strip()

    def _wrong(self, expected: str, found: str, next_step: str) -> RunnerError:
        return RunnerError(place=f"vLLM of {self._python}", expected=expected, found=found, next_step=next_step)
