"""How is a case run so that it cannot stop the others? In its own session of processes, under a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.zoo.outcome import Outcome, read_outcome

LAST_WORDS = 600
"""Characters of a dead process's output that become the reason."""


class CaseProcesses:
    """The processes of the cases that are running; leaving the context ends them all.

    stopped: set once they are being ended; what `run` returns from then on says nothing of the case.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._running: set[subprocess.Popen[bytes]] = set()

    def __enter__(self) -> CaseProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process of every case."""
        self.stopped = True
        for process in list(self._running):
            _end_session(process)

    def run(self, task: Mapping[str, Any], folder: Path, *, timeout: float, threads: int) -> Outcome:
        """Run one task in `folder`, which must not exist and keeps the log alone; at most `timeout` seconds."""
        shutil.rmtree(folder, ignore_errors=True)
        scratch = folder / "scratch"
        scratch.mkdir(parents=True)
        question, answer, log = folder / "task.json", folder / "answer.json", folder / "log.txt"
        question.write_text(json.dumps({**task, "scratch": str(scratch)}))
        begin = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "parity.zoo.child", str(question), str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(threads),
                start_new_session=True,  # the engine is a child of the child: all of them end together
            )
            self._running.add(process)
            try:
                process.wait(timeout)
                late = False
            except subprocess.TimeoutExpired:
                late = True
            finally:
                _end_session(process)
                self._running.discard(process)
        seconds = round(time.monotonic() - begin, 2)
        shutil.rmtree(scratch, ignore_errors=True)
        if late:
            question.unlink()
            return Outcome("timeout", seconds, f"not done after {timeout:g} s")
        try:
            return read_outcome({**json.loads(answer.read_text(encoding="utf-8")), "seconds": seconds})
        except (OSError, ValueError, KeyError, TypeError) as error:
            said = log.read_text(encoding="utf-8", errors="replace").strip()[-LAST_WORDS:]
            why = f"its process ended with code {process.returncode} ({type(error).__name__}); last words: {said}"
            return Outcome("failed", seconds, why)
        finally:
            question.unlink()
            answer.unlink(missing_ok=True)


def _environment(threads: int) -> dict[str, str]:
    count = str(threads)
    return {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        # The child finds modules where this process does, also those that a test or a notebook put in its path.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }


def _end_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
