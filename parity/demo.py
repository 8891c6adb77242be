"""The main job on shipped input: find the rows an FP8 grouped GEMM drops, then run the prompt without the fault."""

from __future__ import annotations

import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from parity.errors import UsageError
from parity.floor import Floor
from parity.ladder import CaptureInvestigation, Observation, Opening, investigate_capture, observe
from parity.process_runner import OnStep, ProcessRunner
from parity.promptfile import read_prompt
from parity.records import as_json
from parity.report.figures import draw_figures
from parity.report.markdown import write_report
from parity.runner import Generation, Request, open_runner

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
FAULT = "moe_tile_truncation"
PROMPT = "extra-multiprocessing-forkserver-768"
"""Shipped because the incident breaks its text clearly while whole-tensor cosines stay high; see fixtures/README.md."""

NEW_TOKENS = 32
"""Of each continuation; the loop begins with the first. Interpreted, a decode step costs as much as 100 ids."""


@dataclass(frozen=True)
class DemoResult:
    """Both investigations of the demo, and how long it all took (seconds)."""

    faulty: CaptureInvestigation
    healthy: CaptureInvestigation
    seconds: float

    def summary(self) -> dict[str, Any]:
        """What `parity demo --json` prints."""
        finding = self.faulty.finding
        return {
            "finding": {
                "layers": finding.layers,
                "stage": finding.stage,
                "slice": finding.slice,
                "cause": finding.cause,
                "sentence": finding.sentence,
                "proof": finding.proof,
            },
            "whole_tensor_cosine": self.faulty.whole_tensor.whole["cosine"],
            "whole_tensor_cosine_by_layer": [r.whole["cosine"] for r in self.faulty.residuals],
            "worst_over_floor": self.faulty.worst_over_floor,
            "healthy_within_floor": self.healthy.within_floor,
            "text_faulty": self.faulty.observation.generation.text,
            "text_healthy": self.healthy.observation.generation.text,
            "text_oracle": self.faulty.oracle_generation.text,
            "seconds": round(self.seconds, 1),
        }

    @property
    def as_expected(self) -> bool:
        """True when the fault was found and proved, and the healthy engine was cleared."""
        found, control = self.faulty.finding, self.healthy.finding
        return found.verdict == "fault" and bool(found.proof.get("proved")) and control.verdict == "clean"


def run_demo(console: Console) -> DemoResult:
    """Run the shipped engine with and without the fault, and investigate both runs against the stored floor.

    The investigation is given what each engine did with the prompt, an oracle and a floor; nothing about the fault.
    """
    start = time.monotonic()
    # One core for each process: with more, the threads of one wait for those of another (three times slower on two).
    torch.set_num_threads(1)
    if not (FIXTURES / "models" / "moe-tiny-fp8" / "config.json").is_file():
        raise UsageError(
            place=str(FIXTURES),
            expected="the fixture models of a source checkout",
            found="none",
            next_step="Run the demo from a clone of the repository.",
        )
    model = str(FIXTURES / "models" / "moe-tiny-fp8")
    request, floor = demo_prompt(), Floor.load(FIXTURES / "floors" / "fp8_block.json")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="parity-demo-") as folder,
        Progress(*columns, console=console, transient=True) as progress,
        ExitStack() as engines,
        ThreadPoolExecutor(4) as pool,
    ):
        spec = f"triton:{model}"
        with_fault, without = (
            engines.enter_context(ProcessRunner(spec, on_step=_bar(progress, "engine with the fault"), fault=FAULT)),
            engines.enter_context(ProcessRunner(spec, on_step=_bar(progress, "engine without it"))),
        )
        faulty = pool.submit(_observe, with_fault, request, Path(folder) / "faulty")
        healthy = pool.submit(_observe, without, request, Path(folder) / "healthy")
        text_oracle = pool.submit(
            _continue, str(FIXTURES / "models" / "moe-tiny"), request, _bar(progress, "oracle text")
        )
        oracle = open_runner(f"hf:{model}", dtype="float32")
        found = [
            investigate_capture(
                observation.result(),
                oracle,
                floor=floor,
                oracle_generation=text_oracle.result(),
                sut=engine,
                emulation=Opening(f"recipe:{model}"),
                on_step=_bar(progress, f"investigation {number}"),
            )
            for number, (engine, observation) in enumerate(((with_fault, faulty), (without, healthy)), 1)
        ]
    return DemoResult(found[0], found[1], time.monotonic() - start)


def demo_prompt() -> Request:
    """The shipped prompt that the demo runs: the beginning of a document that the model knows by heart."""
    return read_prompt(FIXTURES / "prompts" / f"{PROMPT}.json").request


def write_demo(result: DemoResult, out: Path) -> Path:
    """Write report.md, its figures and finding.json into the folder `out`; returns the report's path.

    Without matplotlib the report is written without figures.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "finding": result.faulty.finding,
        "healthy": result.healthy.finding,
        "coverage": result.faulty.coverage,
        "environment": result.faulty.observation.trace.run.environment,
        "summary": result.summary(),
    }
    (out / "finding.json").write_text(json.dumps(as_json(content), indent=2) + "\n")
    return write_report(
        result.faulty, result.healthy, figures=draw_figures(result.faulty, result.healthy, out), path=out / "report.md"
    )


def _observe(runner: ProcessRunner, request: Request, out: Path) -> Observation:
    return observe(runner, request, max_new_tokens=NEW_TOKENS, out=out)


def _continue(model: str, request: Request, on_step: OnStep) -> Generation:
    with ProcessRunner(f"hf:{model}", dtype="bfloat16", on_step=on_step) as oracle:
        return oracle.generate(request, max_new_tokens=NEW_TOKENS)


def _bar(progress: Progress, what: str) -> OnStep:
    """A progress bar, and the function that moves it; a run of several parts starts it anew for each."""
    task = progress.add_task(what, total=None)

    def move(part: str, done: int, total: int) -> None:
        progress.update(task, description=f"{what}: {part}", completed=done, total=total)

    return move
