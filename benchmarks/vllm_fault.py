"""Is one expert scaled inside vLLM found, and where? The engine before and after, against HF, over the floor.

    PYTHONPATH=.:kernels:oracles python benchmarks/vllm_fault.py --layer 2 --expert 5 --factor 1.05 --out FILE

The factor goes into the expert's down projection as vLLM holds it in memory; the files are not touched.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from parity.compare import Outcome
from parity.demo import FIXTURES
from parity.floor import Floor
from parity.promptfile import read_prompt
from parity.records import as_json
from parity.runner import Request, open_runner
from parity_oracles.vllm.compare import Compared, compare_engine

PARAMETER = "model.layers.{layer}.mlp.experts.routed_experts.w2_weight"


def told(found: Compared, floor: Floor) -> dict[str, Any]:
    """What a comparison says: verdicts, the worst site, and the first that diverged with its slices."""
    outcome = Outcome(found.summary, floor, found.sut.run.family)
    first = outcome.first if found.summary.diverged else None
    return {
        "verdicts": found.summary.verdicts,
        "exit_code": outcome.exit_code,
        "worst_over_floor": found.summary.worst_over_floor,
        "router_flips": {str(layer): list(counts) for layer, counts in found.flips.items()},
        "first": None if first is None else {"name": first.name, "phase": first.phase, "slices": as_json(first.worst)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FIXTURES / "models" / "moe-tiny")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--floor", type=Path, default=FIXTURES / "floors" / "fp32.json")
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--expert", type=int, default=5)
    parser.add_argument("--factor", type=float, default=1.05)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    files = sorted((FIXTURES / "prompts").glob("short-*.json"))[:2]
    prompts = [read_prompt(file) for file in files]
    requests = [Request(prompt.name, prompt.ids[: asked.tokens]) for prompt in prompts]
    floor, oracle = Floor.load(asked.floor), open_runner(f"hf:{asked.model}")
    with open_runner(f"vllm:{asked.model}", dtype=asked.dtype, max_model_len=256) as engine:
        healthy = compare_engine(oracle=oracle, sut=engine, requests=requests, floor=floor)
        engine.scale_parameter(PARAMETER.format(layer=asked.layer), asked.expert, asked.factor)
        faulty = compare_engine(oracle=oracle, sut=engine, requests=requests, floor=floor)
    run = healthy.sut.run
    content = {
        "planted": {"layer": asked.layer, "stage": "moe.down", "expert": asked.expert, "factor": asked.factor},
        "recipe": run.recipe.name,
        "floor": asked.floor.name,
        "prompts": {name: len(ids) for name, ids in zip(run.request_names, run.requests, strict=True)},
        "environment": as_json(run.environment),
        "flags": as_json(run.flags),
        "healthy": told(healthy, floor),
        "faulty": told(faulty, floor),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(as_json(content), indent=1) + "\n")
    for name in ("healthy", "faulty"):
        print(name, json.dumps(content[name]["verdicts"]), (content[name]["first"] or {}).get("name", ""))


if __name__ == "__main__":
    main()
