"""Which cause do the detectors name for faults drawn at random? A confusion matrix on runs of a precision recipe.

Each fault is drawn with its layer, stage, slice and strength (random_rows.py, random_values.py, random_layers.py), put
into a healthy run of the recipe, and read blind, as an investigation reads a site: against the recipe's emulation on
the same inputs.
Healthy sites are read too: they must say nothing that a gate would not have asked about.

Run: PYTHONPATH=.:kernels:oracles OMP_NUM_THREADS=1 python3 benchmarks/causes.py --out DIR [--each 20] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import random_layers as layers
import random_rows as rows
import random_values as values
import torch
from random_faults import Draw, Drawn, World

from parity.ladder.reading import read_site
from parity.ladder.replay import Replay
from parity.metrics.interval import wilson
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.trace import capture_environment

ROOT = Path(__file__).resolve().parent.parent
WORLDS = (("moe-tiny-fp8", "fp8_block", 5, 420), ("moe-tiny", "bf16", 3, 333))
DRAWS: dict[str, Draw] = {
    name: cast(Draw, draw)
    for module in (rows, values, layers)
    for name, draw in vars(module).items()
    if callable(draw) and getattr(draw, "__annotations__", {}).get("return") == "Drawn | None"
}


def worlds() -> list[World]:
    """Two models, recipes, orders of arithmetic, prompts and chunkings."""
    found = []
    prompts = sorted((ROOT / "fixtures/prompts").glob("document-*.json"))
    for number, (model, recipe, order, tokens) in enumerate(WORLDS):
        folder = f"recipe:{ROOT / 'fixtures/models' / model}"
        ids = json.loads(prompts[number].read_text())["ids"][:tokens]
        trace = open_runner(folder, recipe=recipe, order=order).forward(
            [Request("document", tuple(ids))], schedule=Schedule(chunk=256), capture=CapturePlan()
        )
        found.append(World(Replay(trace, open_runner(folder, recipe="fp32")), recipe))
    return found


def score(world: World, draw: Draw, seed: int) -> dict[str, Any] | None:
    """One fault, drawn and read; None where the dice gave nothing that fits the model."""
    world.rng = np.random.default_rng(seed)
    drawn: Drawn | None = draw(world)
    if drawn is None:
        return None
    start = time.process_time()
    found = read_site(world.replay, drawn.site)
    said = [(f.cause, round(f.score, 4)) for f in found]
    return {
        "wanted": drawn.accepted,
        "first": bool(said) and said[0][0] in drawn.accepted,
        "listed": any(cause in drawn.accepted for cause, _ in said),
        "said": said[:4],
        "about": drawn.about,
        "cpu_s": time.process_time() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = worlds()
    rows: dict[str, list[dict[str, Any]]] = {}
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    for place, (name, draw) in enumerate(DRAWS.items()):
        if args.only and args.only not in name:
            continue
        results = []
        for number in range(args.each):
            result = score(made[number % len(made)], draw, args.seed * 1_000_003 + 1009 * place + number)
            if result is None:
                continue
            results.append(result)
            confusion[result["wanted"][0]][result["said"][0][0] if result["said"] else "nothing"] += 1
            if args.verbose and not result["first"]:
                print("   ", name, result["about"], "|", result["said"][:3])
        rows[name] = results
        first, listed = (sum(r[key] for r in results) for key in ("first", "listed"))
        print(f"{name:20} {first:3d} first, {listed:3d} listed of {len(results)}", flush=True)
    every = [r for results in rows.values() for r in results]
    first = sum(r["first"] for r in every)
    low, high = wilson(first, len(every))
    summary = {
        "faults": len(every),
        "first": first,
        "first_share": first / len(every),
        "first_interval_95": [low, high],
        "listed": sum(r["listed"] for r in every),
        "cpu_s_mean": float(np.mean([r["cpu_s"] for r in every])),
        "seed": args.seed,
    }
    print(json.dumps(summary))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = {
            "environment": capture_environment().__dict__,
            **summary,
            "worlds": WORLDS,
            "by_family": {
                name: {
                    "of": len(found),
                    "first": sum(r["first"] for r in found),
                    "listed": sum(r["listed"] for r in found),
                }
                for name, found in rows.items()
            },
            "confusion": {wanted: dict(said.most_common()) for wanted, said in sorted(confusion.items())},
            "missed": [{"family": n, **r} for n, found in rows.items() for r in found if not r["first"]],
        }
        (args.out / "causes.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
