"""How often is the healthy engine called wrong? Clean runs against the stored floor, on texts that no floor has seen.

Rungs 3 to 5: launch coverage, the chained sweep, isolated replay by its error and its distance gate. Lengths 64 to
1024, chunkings and decode steps mixed. The oracle computes on the CPU, the engine where it can.

    PYTHONPATH=.:kernels:oracles python benchmarks/clean_runs.py --recipe fp8_block --jobs 15 --out results/clean.jsonl

One JSON line a run; an interrupted call goes on where it stopped. Every alarm of a healthy engine is a bug of the
engine, the oracle or the floor: none is a reason to widen a gate.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from fixtures.floors.documents import MODELS, documents
from parity.floor import Floor, upper_bound
from parity.invariance import launch_coverage
from parity.ladder import Replay
from parity.ladder.calibrate import CleanRun
from parity.ladder.plan import plan_runs
from parity.ladder.sweep import oracle_trace, sweep_against
from parity.metrics.interval import wilson
from parity.records import Comparison, as_json, site_name
from parity.runner import CapturePlan, open_runner
from parity.trace import Trace, capture_environment

FLOORS = Path(__file__).resolve().parent.parent / "fixtures" / "floors"
SHORTEST = 64
_held: dict[str, Any] = {}


def open_all(recipe: str, floor: str) -> None:
    """Engine, oracle and floor, once a process."""
    torch.set_num_threads(1)
    model = MODELS[recipe]
    _held["engine"] = open_runner(f"triton:{model}")
    _held["oracle"] = open_runner(f"recipe:{model}", recipe="fp32")
    _held["floor"] = Floor.load(Path(floor))
    _held["truth"] = (None, None)


def examine(prompt: Sequence[CleanRun]) -> list[dict[str, Any]]:
    """One line a run; the runs share a prompt, fed in different ways."""
    return [examine_run(run) for run in prompt]


def examine_run(run: CleanRun) -> dict[str, Any]:
    """Rungs 3 to 5 over one clean run of the engine."""
    start = time.monotonic()
    floor = _held["floor"]
    line: dict[str, Any] = {
        "run": run.name,
        "document": run.document,
        "tokens": len(run.request.ids),
        "chunk": run.schedule.chunk,
        "decode": run.schedule.decode,
    }
    try:
        trace = _held["engine"].forward([run.request], schedule=run.schedule, capture=CapturePlan())
        coverage = [one for one in launch_coverage(trace) if one.truncated]
        chained = sweep_against(_held["oracle"], _truth(trace), trace, floor=floor)
        isolated = Replay(trace, _held["oracle"]).compare(floor=floor)
    except Exception as error:  # a crash is a result of its own and stops no other run
        return line | {"error": f"{type(error).__name__}: {error}"[:500]}
    judged = [*chained.comparisons, *isolated.comparisons]
    alarms = [as_alarm(one) for one in judged if one.verdict.faulty]
    alarms += [{"mode": "coverage", "site": site_name(one.layer, one.stage), "reason": one.line()} for one in coverage]
    gates = {
        name: max((c.over_gates[name] for c in isolated.comparisons if name in c.over_gates), default=None)
        for name in ("error", "distance")
    }
    return line | {
        "alarms": alarms,
        "over": {"chained": chained.worst_over_floor, **gates},
        "verdicts": {"chained": chained.verdicts, "isolated": isolated.verdicts},
        "unresolved": [
            f"{c.mode} {c.name} {c.phase}: {c.verdict.value}, {c.reason}"
            for c in judged
            if not c.verdict.healthy and not c.verdict.faulty
        ],
        "seconds": round(time.monotonic() - start, 1),
    }


def as_alarm(one: Comparison) -> dict[str, Any]:
    """Site, slice and score of an alarm."""
    return {
        "mode": one.mode,
        "site": one.name,
        "phase": one.phase,
        "verdict": one.verdict.value,
        "over_floor": one.over_floor,
        "over_gates": dict(one.over_gates),
        "slice": as_json(one.worst[0]) if one.worst else None,
        "reason": one.reason,
    }


def _truth(trace: Trace) -> Trace:
    """The oracle's chained trace, routed as the engine was; kept while prompt and choices stay the same."""
    run = trace.run
    choices = sorted(
        (capture.layer or 0, position, slot, expert)
        for capture in trace.select(stage="moe.topk_ids")
        for position, row in zip(capture.rows.position.tolist(), trace.tensor(capture).tolist(), strict=True)
        for slot, expert in enumerate(row)
    )
    key = (run.requests, choices)
    if _held["truth"][0] != key:
        _held["truth"] = (key, oracle_trace(_held["oracle"], trace))
    return _held["truth"][1]


def plan_prompts(runs: int, *, schedules: int, longest: int, seed: int = 3) -> list[list[CleanRun]]:
    """Runs by prompt, from the half of the documents that is for engines. schedules: ways to feed each prompt."""
    texts = documents("engines", most=10**6)
    planned = plan_runs(texts, runs=-(-runs // schedules), longest=longest, shortest=SHORTEST, orders=(0,), seed=seed)
    prompts = []
    for number, run in enumerate(planned):
        others = [planned[(number + k) % len(planned)].schedule for k in range(1, len(planned))]
        fits = [one for one in others if one.decode <= len(run.request.ids) // 2 and one != run.schedule]
        kinds = list(dict.fromkeys([run.schedule, *fits]))[:schedules]
        prompts.append([CleanRun(run.request, run.document, 0, schedule) for schedule in kinds])
    return prompts


def summarize(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rate of alarms with its intervals, by run and by document: runs of one document share their errors."""
    done = [line for line in lines if "error" not in line]
    alarmed = [line for line in done if line["alarms"]]
    seen = {line["document"] for line in done}
    wrong = {line["document"] for line in alarmed}
    return {
        "runs": len(done),
        "alarms": len(alarmed),
        "errors": len(lines) - len(done),
        "runs_with_unresolved_sites": sum(bool(line["unresolved"]) for line in done),
        "wilson_95": wilson(len(alarmed), len(done)),
        "clopper_pearson_upper_95": upper_bound(len(alarmed), len(done)) if done else 1.0,
        "documents": len(seen),
        "documents_with_alarm": len(wrong),
        "documents_wilson_95": wilson(len(wrong), len(seen)),
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of runs; a last line cut short by a killed process is left out."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def tell(line: dict[str, Any]) -> None:
    """One run in words, each alarm on a line of its own."""
    if "error" in line:
        print(f"{line['run']}: {line['error']}", flush=True)
        return
    over = ", ".join(f"{name} {value:.2f}" for name, value in line["over"].items() if value is not None)
    print(f"{line['run']}: {over}; {len(line['alarms'])} alarms; {line['seconds']} s", flush=True)
    for alarm in line["alarms"]:
        part = alarm.get("slice") or {}
        where = f"{part.get('kind', '')} {part.get('index', '')}".strip()
        score = f"{alarm['over_floor']:.2f} of its gate" if alarm.get("over_floor") is not None else ""
        print(f"  ALARM {alarm['mode']} {alarm['site']} {alarm.get('phase', '')} {where} {score}: {alarm['reason']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=("fp8_block", "bf16"), default="fp8_block")
    parser.add_argument("--floor", type=Path, default=None, help="default: the stored floor of the recipe")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--schedules", type=int, default=1, help="ways to feed each prompt")
    parser.add_argument("--seed", type=int, default=3, help="another draws other windows of the texts")
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="JSONL file of runs; a summary beside it")
    asked = parser.parse_args()
    floor = asked.floor or FLOORS / f"{asked.recipe}.json"
    prompts = plan_prompts(asked.runs, schedules=asked.schedules, longest=asked.longest, seed=asked.seed)
    # A run that crashed is tried again.
    lines = {line["run"]: line for line in read_lines(asked.out) if "error" not in line}
    names = {run.name for prompt in prompts for run in prompt}
    left = [[run for run in prompt if run.name not in lines] for prompt in prompts]
    left = sorted((prompt for prompt in left if prompt), key=lambda prompt: -len(prompt[0].request.ids))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(
        asked.jobs, mp_context=get_context("spawn"), initializer=open_all, initargs=(asked.recipe, str(floor))
    ) as pool:
        for future in as_completed([pool.submit(examine, prompt) for prompt in left]):
            for line in future.result():
                with asked.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                lines[line["run"]] = line
                tell(line)
    counted = summarize([line for name, line in lines.items() if name in names])
    environment = as_json(capture_environment(device="cuda" if torch.cuda.is_available() else "cpu", interpreted=False))
    result = {"recipe": asked.recipe, "environment": environment, **counted}
    asked.out.with_suffix(".summary.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(counted, indent=1))


if __name__ == "__main__":
    main()
