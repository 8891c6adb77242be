"""Is one expert scaled inside vLLM found, placed, named and proved? The comparison and the climb, before and after.

    PYTHONPATH=.:kernels:oracles python benchmarks/vllm_fault.py --dtype bfloat16 --layer 2 --expert 5 --factor 1.05 \
        --out FILE --climb FOLDER

The factor goes into the expert's down projection as vLLM holds it in memory; the files are not touched, and neither the
comparison nor the investigation is told. --climb keeps two investigations, `healthy` and `faulty`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from parity.cli.inputs import parse_options
from parity.climb import Case, Investigation, investigate
from parity.compare import Outcome
from parity.demo import FIXTURES
from parity.floor import Floor
from parity.promptfile import read_prompt
from parity.records import Summary, as_json
from parity.runner import Request, open_runner, opened
from parity_oracles.vllm.compare import Compared, compare_engine

PARAMETER = "model.layers.{layer}.mlp.experts.routed_experts.w2_weight"
DTYPES = ("bfloat16", "float32")


def told(found: Compared, floor: Floor) -> dict[str, Any]:
    """What a comparison says: verdicts, the worst site, and the first that diverged with its slices; of whole passes,
    and of each stage on the engine's own inputs."""
    outcome = Outcome(found.summary, floor, found.sut.run.family)
    first = outcome.first if found.summary.diverged else None
    return {
        "exit_code": 1 if found.added else outcome.exit_code,
        "router_flips": {str(layer): list(counts) for layer, counts in found.flips.items()},
        "whole_passes": {**_counted(found.summary), "first": _site(first)},
        "own_inputs": None if found.isolated is None else {
            **_counted(found.isolated), "added": [_site(one) for one in found.added]
        },
    }  # fmt: skip


def _counted(summary: Summary) -> dict[str, Any]:
    return {"verdicts": summary.verdicts, "worst_over_floor": summary.worst_over_floor}


def _site(one: Any) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"name": one.name, "phase": one.phase, "over_floor": one.over_floor, "slices": as_json(one.worst)}


def climbed(found: Investigation) -> dict[str, Any]:
    """What an investigation came to: its finding, the proof, and how each rung ended."""
    finding = found.finding
    return {
        "verdict": finding.verdict, "sentence": finding.sentence, "stage": finding.stage,
        "layers": list(finding.layers), "slice": as_json(finding.slice), "cause": finding.cause,
        "over_floor": finding.over_floor, "proof": as_json(finding.proof),
        "others": [one.sentence for one in found.others],
        "rungs": [
            {"rung": one.number, "name": one.name, "status": str(one.status), "said": one.sentence,
             "seconds": one.seconds}
            for one in found.results
        ],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FIXTURES / "models" / "moe-tiny")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--floor", type=Path, help="default: the shipped one of the recipe that the engine states")
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--expert", type=int, default=5)
    parser.add_argument("--factor", type=float, default=1.05)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument(
        "--calibrate", type=Path, action="append", default=[],
        help="prompts of a floor that each investigation makes for itself, in place of --floor"
    )  # fmt: skip
    parser.add_argument(
        "--option", "-o", action="append", help="of vLLM's runner, KEY=VALUE: arguments='{\"attention_backend\": ...}'"
    )
    parser.add_argument("--climb", type=Path, help="folder for the investigations; without, none is made")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    files = sorted((FIXTURES / "prompts").glob("short-*.json"))[:2]
    prompts = [read_prompt(file) for file in files]
    requests = [Request(prompt.name, prompt.ids[: asked.tokens]) for prompt in prompts]
    options = {"dtype": asked.dtype, "max_model_len": 512, **parse_options(asked.option)}
    oracle = open_runner(f"hf:{asked.model}")
    content: dict[str, Any] = {}
    with opened(f"vllm:{asked.model}", **options) as engine:
        asked.floor = asked.floor or FIXTURES / "floors" / f"{engine.describe().recipe.name}.json"
        floor = Floor.load(asked.floor)
        case = Case(
            f"vllm:{asked.model}", f"hf:{asked.model}", requests[0], second=requests[1],
            emulation=f"recipe:{asked.model}", floor=None if asked.calibrate else str(asked.floor),
            calibrate=tuple(map(str, asked.calibrate)), sut_options=options, model=str(asked.model),
        )  # fmt: skip

        def examine(name: str) -> Compared:
            found = compare_engine(oracle=oracle, sut=engine, requests=requests, floor=floor, isolated=True)
            content[name] = told(found, floor)
            print(name, json.dumps(found.summary.verdicts), [one.name for one in found.added], flush=True)
            if asked.climb is not None:
                ended = investigate(case, asked.climb / name, sut=engine, oracle=oracle)
                content[name]["investigation"] = climbed(ended)
                print(ended.finding.sentence, ended.finding.proof, flush=True)
            return found

        run = examine("healthy").sut.run
        engine.scale_parameter(PARAMETER.format(layer=asked.layer), asked.expert, asked.factor)
        examine("faulty")
    head = {
        "planted": {"layer": asked.layer, "stage": "moe.down", "expert": asked.expert, "factor": asked.factor},
        "recipe": run.recipe.name,
        "floor": asked.floor.name,
        "prompts": {name: len(ids) for name, ids in zip(run.request_names, run.requests, strict=True)},
        "environment": as_json(run.environment),
        "flags": as_json(run.flags),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(as_json({**head, **content}), indent=1) + "\n")


if __name__ == "__main__":
    main()
