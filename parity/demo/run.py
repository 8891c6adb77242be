"""The main job on shipped input: find the rows an FP8 grouped GEMM drops, and clear the engine without the fault."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from parity.climb import Case, Investigation, investigate
from parity.climb.ask import ask_case
from parity.climb.store import CASE, FINDING, RUNGS, TRACES, read_case, write_json
from parity.errors import UsageError
from parity.ladder.ledger import LEDGER
from parity.process_runner import OnStep, ProcessRunner
from parity.promptfile import read_prompt
from parity.records import Comparison, Summary
from parity.report.document import FIGURES, report_investigation
from parity.report.gallery import can_draw, coverage_of
from parity.runner import Generation, Request, open_runner

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODEL = FIXTURES / "models" / "moe-tiny-fp8"
FAULT = "moe_tile_truncation"
PROMPT = "extra-multiprocessing-forkserver-768"
"""Shipped because the incident breaks its text clearly while whole-tensor cosines stay high; see fixtures/README.md."""

FIXTURE_RUNG = 8
"""Left out of both climbs: it shortens a prompt that is shipped already."""

CONTROL_RUNGS = (4, 5, 6)
"""Of the engine without the fault: every stage chained and alone, and what follows. The rungs before them would take as
long again as both texts and these."""

CHECKS = ("coverage", "sums", "history")
"""Of rung 3, what needs no run that the other rungs do not need; all ten take as long again as the rest."""

NEW_TOKENS = 32
"""Of the texts that are shown, so that a loop is seen as one; the climb needs fewer. Interpreted, a decode step costs
as much as 100 ids."""

CONTROL, SUMMARY, MAP = "without-fault", "demo.json", "layer-stage-map.png"
"""The control's folder, the summary and the figure of both engines, below the demo's folder."""


@dataclass(frozen=True)
class Texts:
    """What oracle, engine with the fault and engine without it write behind the prompt."""

    oracle: Generation
    faulty: Generation
    healthy: Generation


@dataclass(frozen=True)
class DemoResult:
    """Both investigations of the demo, the greedy continuations of oracle and engines, and how long it all took (s)."""

    faulty: Investigation
    healthy: Investigation
    texts: Texts
    seconds: float

    def summary(self) -> dict[str, Any]:
        """What `parity demo --json` prints."""
        finding, residuals = self.faulty.finding, residuals_of(self.faulty)
        return {
            "finding": {
                "layers": finding.layers,
                "stage": finding.stage,
                "slice": finding.slice,
                "cause": finding.cause,
                "sentence": finding.sentence,
                "proof": finding.proof,
            },
            "launches": [launch.line() for launch in coverage_of(self.faulty) if launch.truncated],
            "whole_tensor_cosine": whole_tensor(self.faulty).whole["cosine"],
            "whole_tensor_cosine_by_layer": [record.whole["cosine"] for record in residuals],
            "worst_over_floor": worst_over_floor(self.faulty),
            "healthy_within_floor": self.healthy.finding.verdict == "clean",
            "healthy_worst_over_floor": worst_over_floor(self.healthy),
            "text_faulty": self.texts.faulty.text,
            "text_healthy": self.texts.healthy.text,
            "text_oracle": self.texts.oracle.text,
            "seconds": round(self.seconds, 1),
        }

    @property
    def as_expected(self) -> bool:
        """True when the fault was found and proved, and the healthy engine was cleared."""
        found, control = self.faulty.finding, self.healthy.finding
        return found.verdict == "fault" and bool(found.proof.get("proved")) and control.verdict == "clean"


def run_demo(console: Console, out: Path) -> DemoResult:
    """Climb the ladder on the shipped engine with the fault and, beside it, without; all that is found lies in `out`.

    The investigation is given an engine, an oracle, a floor and a prompt; of the fault it knows as little as the
    engine says. What an earlier demo left in `out` is removed; any other investigation there is refused (UsageError).
    """
    start = time.monotonic()
    # One core for each process: with more, the threads of one wait for those of another (three times slower on two).
    torch.set_num_threads(1)
    if not (MODEL / "config.json").is_file():
        raise UsageError(
            place=str(FIXTURES),
            expected="the fixture models of a source checkout",
            found="none",
            next_step="Run the demo from a clone of the repository.",
        )
    clear_demo(out)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    apart = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with apart, Progress(*columns, console=console, transient=True) as progress:
        control = apart.submit(_run_control, str(out / CONTROL))
        progress.add_task("engine without the fault", total=None)
        found = investigate(
            demo_case(FAULT), out, skip=(FIXTURE_RUNG,), on_step=_bar(progress, "engine with the fault")
        )
        texts = control.result()
    return DemoResult(found, Investigation.read(out / CONTROL), texts, time.monotonic() - start)


def demo_case(fault: str | None) -> Case:
    """The shipped prompt on the shipped engine, with a fault or, for None, without."""
    return ask_case(
        sut=f"triton:{MODEL}",
        oracle=f"hf:{MODEL}",
        request=demo_prompt(),
        floor=FIXTURES / "floors" / "fp8_block.json",
        sut_options={} if fault is None else {"fault": fault},
        checks=CHECKS,
    )


def demo_prompt() -> Request:
    """The shipped prompt that the demo runs: the beginning of a document that the model knows by heart."""
    return read_prompt(FIXTURES / "prompts" / f"{PROMPT}.json").request


def write_demo(result: DemoResult) -> Path:
    """Write report.md with its figures, report.html, the map of both engines, and demo.json into the demo's folder;
    returns the path of report.html. Without matplotlib there are no figures."""
    out = result.faulty.folder
    write_json(out / SUMMARY, result.summary())
    report_investigation(out, markdown=out / "report.md", html=out / "report.html")
    panels = demo_panels(result)
    if can_draw() and panels:
        from parity.report.plots.layer_stage_map import draw_layer_stage_map

        draw_layer_stage_map(panels).save(out / MAP)
    return out / "report.html"


def demo_panels(result: DemoResult) -> list[tuple[str, Summary]]:
    """The map's panels: the fault chained and isolated, and the engine without it."""
    found, control = result.faulty, result.healthy
    panels = (
        ("Engine under test, chained: error as it adds up through the layers", found.summary(4, "chained")),
        ("Engine under test, isolated: each stage alone, on the engine's own inputs", found.summary(5, "isolated")),
        ("The same prompt without the fault, chained", control.summary(4, "chained")),
    )
    return [(name, summary) for name, summary in panels if summary is not None]


def residuals_of(found: Investigation) -> tuple[Comparison, ...]:
    """The residual stream leaving each layer, chained; its `whole` is what most comparators look at."""
    chained = found.summary(4, "chained")
    return () if chained is None else tuple(one for one in chained.comparisons if one.stage == "resid.out")


def whole_tensor(found: Investigation) -> Comparison:
    """The residual leaving the first layer of the finding, as one tensor; without a finding, the last layer's."""
    layers, residuals = found.finding.layers, residuals_of(found)
    return next((record for record in residuals if layers and record.layer == layers[0]), residuals[-1])


def worst_over_floor(found: Investigation) -> float | None:
    """Worst slice over its gate, over all sites of both summaries."""
    summaries = (found.summary(4, "chained"), found.summary(5, "isolated"))
    scores = [one.worst_over_floor for one in summaries if one is not None and one.worst_over_floor is not None]
    return max(scores, default=None)


def _run_control(folder: str) -> Texts:
    """The climb without the fault, into `folder`, and all three texts; in a process of its own, beside the main one."""
    torch.set_num_threads(1)
    request, oracle = demo_prompt(), open_runner(f"hf:{MODEL}", dtype="float32")
    with ProcessRunner(f"triton:{MODEL}", fault=FAULT) as engine:
        faulty = engine.generate(request, max_new_tokens=NEW_TOKENS)
    with ProcessRunner(f"triton:{MODEL}") as engine:
        healthy = engine.generate(request, max_new_tokens=NEW_TOKENS)
        investigate(demo_case(None), Path(folder), sut=engine, oracle=oracle, only=CONTROL_RUNGS)
    return Texts(oracle.generate(request, max_new_tokens=NEW_TOKENS), faulty, healthy)


def clear_demo(out: Path) -> None:
    """Remove what an earlier demo left: both investigations and what was written of them, and nothing else."""
    if not (out / CASE).is_file():
        return
    case = read_case(out)["case"]
    if case.get("sut") != f"triton:{MODEL}" or case.get("sut_options") != {"fault": FAULT}:
        return
    for name in (CASE, FINDING, LEDGER, "report.md", "report.html", SUMMARY, MAP):
        (out / name).unlink(missing_ok=True)
    for name in (RUNGS, TRACES, FIGURES, CONTROL):
        shutil.rmtree(out / name, ignore_errors=True)


def _bar(progress: Progress, what: str) -> OnStep:
    """A progress bar, and the function that moves it; a run of several parts starts it anew for each."""
    task = progress.add_task(what, total=None)

    def move(part: str, done: int, total: int) -> None:
        progress.update(task, description=f"{what}: {part}", completed=done, total=total)

    return move
