"""How far is each real engine from HF in FP32, stage by stage, over the floor of its precision? The parity table.

    PYTHONPATH=.:kernels:oracles python benchmarks/engines.py --out benchmarks/results/engines \
        --engine "torch.compile fp32=torch:MODEL,compile=inductor" --engine "vLLM bf16=trace:traces/vllm-bf16"

An engine is NAME=RUNNER:MODEL,option=value,... and MODEL, where it is the word MODEL, is the folder of --model; or
NAME=trace:FOLDER for a trace that was captured elsewhere (another environment, a GPU) of the same prompts. Each runner
has a process of its own. The oracle is HF in FP32, routed as the engine was; router choices are judged against its own.
Errors are those of a whole pass, inherited ones included, over the floor of the engine's recipe: fixtures/floors, or
--floor RECIPE=FILE, or one that is made here of the recipe's emulation on the prompts of --calibrate (kept in
OUT/floors); without any they are measured and not judged. `engines.json` keeps every record, merged by name.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from parity.demo import FIXTURES
from parity.errors import ParityError
from parity.floor import Floor
from parity.ladder.make_floor import read_documents
from parity.ladder.recipe_floor import calibrate_recipe
from parity.ladder.sweep import sweep
from parity.process_runner import ProcessRunner
from parity.promptfile import read_prompt
from parity.records import Comparison, Verdict, as_json
from parity.report.quoting import markdown_table
from parity.runner import CapturePlan, Request, open_runner
from parity.stages import family
from parity.trace import Trace, capture_environment, open_trace

DEFAULT = (
    "vLLM CPU fp32=vllm:MODEL,dtype=float32",
    "vLLM CPU bf16=vllm:MODEL,dtype=bfloat16",
    "PyTorch eager fp32=torch:MODEL",
    "PyTorch eager bf16=torch:MODEL,dtype=bfloat16",
    "torch.compile fp32=torch:MODEL,compile=inductor",
    "torch.compile bf16=torch:MODEL,compile=inductor,dtype=bfloat16",
    "Triton bf16=triton:MODEL",
    "llama.cpp f32, KV f32=llama_cpp:MODEL,dtype=f32,kv=f32",
    "llama.cpp f32, KV f16=llama_cpp:MODEL,dtype=f32,kv=f16",
    "llama.cpp bf16, KV f32=llama_cpp:MODEL,dtype=bf16,kv=f32",
    "llama.cpp bf16, KV f16=llama_cpp:MODEL,dtype=bf16,kv=f16",
    "llama.cpp q8_0, KV f16=llama_cpp:MODEL,dtype=q8_0,kv=f16",
)
"""All engines of the table in benchmarks/results/engines; the command that makes it is this script with
`--calibrate fixtures/heldout`, whose prompts give llama.cpp's recipes their floors."""


def read_engine(text: str, model: Path) -> tuple[str, str, dict[str, Any]]:
    """(name, runner specification, options) of one --engine."""
    name, equals, rest = text.partition("=")
    spec, *options = rest.split(",")
    if not equals or ":" not in spec or not all("=" in one for one in options):
        raise SystemExit(f"--engine {text!r}: expected NAME=RUNNER:MODEL,option=value,...")
    pairs: dict[str, Any] = dict(one.split("=", 1) for one in options)
    return name.strip(), spec.replace(":MODEL", f":{model}"), pairs


def read_requests(files: Sequence[Path], tokens: int) -> list[Request]:
    """The first ids of each prompt, so that a slow engine can be compared too."""
    prompts = [read_prompt(file) for file in files]
    return [Request(prompt.name, tuple(prompt.ids[:tokens])) for prompt in prompts]


def capture_engine(spec: str, options: dict[str, Any], requests: Sequence[Request]) -> Trace:
    """The engine's trace of the requests, every stage that it can show."""
    if spec.startswith("trace:"):
        return open_trace(Path(spec.removeprefix("trace:")))
    with ProcessRunner(spec, **options) as engine:
        return engine.forward(requests, capture=CapturePlan())


def make_floor_file(recipe: str, model: Path, prompts: Sequence[Path], *, apart: Sequence[Request], path: Path) -> None:
    """Calibrate a floor of `recipe` on `prompts` but those named in `apart`, as far as the longest of these reaches."""
    documents = read_documents(prompts)
    used = {request.name for request in apart}
    clean = [Request(name, ids) for name, ids in documents.items() if name not in used]
    longest = max(len(request.ids) for request in apart)
    calibrate_recipe(recipe, str(model), clean, longest=longest).save(path)


def stage_row(records: Sequence[Comparison]) -> dict[str, Any]:
    """One stage over all layers and prompts: its worst score over the floor, its worst error, its verdicts."""
    shown = [one for one in records if one.verdict is not Verdict.MISSING_IN_SUT]
    judged = [one for one in shown if one.over_floor is not None]
    worst = max(judged, key=lambda one: one.over_floor or 0.0, default=None)
    errors = [one.whole["rel_l2"] for one in shown if "rel_l2" in one.whole]
    verdicts = [one.verdict.value for one in shown]
    return {
        "shown": len(shown),
        "over_floor": worst.over_floor if worst is not None else None,
        "where": worst.name if worst is not None else None,
        "slice": as_json(worst.worst[0]) if worst is not None and worst.worst else None,
        "rel_l2": max(errors, default=None),
        "flips": int(sum(one.whole.get("flips", 0) for one in shown)),
        "flips_excused": int(sum(one.whole.get("flips_excused", 0) for one in shown)),
        "verdicts": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
    }


def examine_engine(
    text: str,
    *,
    model: Path,
    oracle: Any,
    requests: Sequence[Request],
    floors: Callable[[str], Path | None],
) -> dict[str, Any]:
    """The record of one engine; a refusal or a crash is a record of its own and stops no other."""
    name, spec, options = read_engine(text, model)
    start = time.process_time(), time.monotonic()
    try:
        trace = capture_engine(spec, options, requests)
        seconds = time.monotonic() - start[1]
        recipe = trace.run.recipe.name
        path = floors(recipe)
        floor = Floor.load(path) if path is not None and path.is_file() else None
        summary = sweep(oracle, trace, floor=floor)
    except ParityError as error:
        return {"engine": name, "spec": text, "error": str(error)}
    except Exception as error:
        return {"engine": name, "spec": text, "error": f"{type(error).__name__}: {error}"}
    stages = [stage.name for _, stage in family(trace.run.family).sites(1)]
    rows = {stage: stage_row([one for one in summary.comparisons if one.stage == stage]) for stage in stages}
    scores = [row["over_floor"] for row in rows.values() if row["over_floor"] is not None]
    return {
        "engine": name,
        "spec": text,
        "recipe": recipe,
        "floor": path.name if floor is not None and path is not None else None,
        "prompts": {n: len(ids) for n, ids in zip(trace.run.request_names, trace.run.requests, strict=True)},
        "environment": as_json(trace.run.environment),
        "flags": dict(trace.run.flags),
        "capture_seconds": round(seconds, 1),
        "over_floor": max(scores, default=None),
        "flips": rows.get("moe.topk_ids", {}).get("flips", 0),
        "flips_excused": rows.get("moe.topk_ids", {}).get("flips_excused", 0),
        "tokens_routed": sum(c.rows for c in summary.comparisons if c.stage == "moe.topk_ids"),
        "within_floor": not any(one.verdict.faulty for one in summary.comparisons if one.verdict is not
                                Verdict.MISSING_IN_SUT) if floor is not None else None,
        "not_shown": [stage for stage, row in rows.items() if not row["shown"]],
        "stages": rows,
    }  # fmt: skip


def write_table(results: Sequence[dict[str, Any]], out: Path) -> None:
    """engines.json and engines.md in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"environment": as_json(capture_environment()), "engines": list(results)}
    (out / "engines.json").write_text(json.dumps(content, indent=1) + "\n")
    done = [one for one in results if "error" not in one]
    head = ["engine", "recipe", "worst over floor", "at", "within floor", "router flips (excused) of", "not shown"]
    lines = [
        [
            one["engine"],
            one["recipe"],
            _number(one["over_floor"]),
            max(one["stages"].values(), key=lambda row: row["over_floor"] or -1.0)["where"] or "",
            {True: "yes", False: "no", None: "no floor"}[one["within_floor"]],
            f"{one['flips']} ({one['flips_excused']}) of {one['tokens_routed']}",
            ", ".join(one["not_shown"]) or "nothing",
        ]
        for one in done
    ]
    stages = list(dict.fromkeys(stage for one in done for stage in one["stages"]))
    cells = [[stage, *(_cell(one["stages"].get(stage)) for one in done)] for stage in stages]
    failed = "".join(f"- {one['engine']}: {one['error']}\n" for one in results if "error" in one)
    text = (
        "# Engines against HF in FP32\n\n"
        f"{markdown_table(head, lines)}\n\n"
        "Worst score over the floor of each stage, over all layers and prompts; in brackets the worst relative error "
        f"(rel_l2).\n\n{markdown_table(['stage', *(one['engine'] for one in done)], cells)}\n\n"
    )
    (out / "engines.md").write_text(text + (f"Not measured:\n\n{failed}" if failed else ""))


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or not row["shown"]:
        return "not shown"
    error = f" ({row['rel_l2']:.2g})" if row["rel_l2"] is not None else ""
    return f"{_number(row['over_floor'])}{error}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--engine", action="append", help="NAME=RUNNER:MODEL,option=value,... or NAME=trace:FOLDER; several"
    )
    parser.add_argument("--model", type=Path, default=FIXTURES / "models" / "moe-tiny")
    parser.add_argument("--prompt", type=Path, action="append", help="prompt file; default: two held-out documents")
    parser.add_argument("--tokens", type=int, default=128, help="ids taken of each prompt")
    parser.add_argument("--floor", action="append", default=[], help="RECIPE=FILE")
    parser.add_argument(
        "--calibrate", type=Path, action="append", default=[], help="prompts for the floors that are missing"
    )
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    files = asked.prompt or sorted((FIXTURES / "heldout").glob("*.json"))[:2]
    requests = read_requests(files, asked.tokens)
    floors = {path.stem: path for path in (FIXTURES / "floors").glob("*.json")}
    floors |= {recipe: Path(path) for recipe, _, path in (one.partition("=") for one in asked.floor)}
    oracle = open_runner(f"hf:{asked.model}")

    def floor_of(recipe: str) -> Path | None:
        made = asked.out / "floors" / f"{recipe}.json"
        if recipe not in floors and not made.is_file() and asked.calibrate:
            make_floor_file(recipe, asked.model, asked.calibrate, apart=requests, path=made)
        return floors.get(recipe, made if made.is_file() else None)

    kept = asked.out / "engines.json"
    results = {one["engine"]: one for one in json.loads(kept.read_text())["engines"]} if kept.is_file() else {}
    for text in asked.engine or DEFAULT:
        found = examine_engine(text, model=asked.model, oracle=oracle, requests=requests, floors=floor_of)
        results[found["engine"]] = found
        words = found.get("error") or f"worst {_number(found['over_floor'])} over floor, {found['flips']} flips"
        print(f"{found['engine']}: {words}", flush=True)
        write_table(list(results.values()), asked.out)


if __name__ == "__main__":
    main()
