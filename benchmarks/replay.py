"""How long does replay of every stage of every layer take over 512 positions, and how much memory above the model?

The budget: 45 s on two cores, and memory within one layer's captures. One capture of the SUT, here the recipe's own
emulation; each stage replayed in exact arithmetic and in the recipe.

Run: PYTHONPATH=.:kernels:oracles python3 benchmarks/replay.py --out DIR [--tokens 512] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from parity.ladder.replay import Replay
from parity.runner import CapturePlan, Request, open_runner
from parity.trace import capture_environment

ROOT = Path(__file__).resolve().parent.parent
MODELS = (("moe-tiny-fp8", "fp8_block"), ("moe-tiny", "bf16"))


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(model: str, recipe: str, tokens: int) -> dict[str, object]:
    folder = f"recipe:{ROOT / 'fixtures/models' / model}"
    ids: list[int] = []
    for path in sorted((ROOT / "fixtures/prompts").glob("document-*.json")):
        ids += json.loads(path.read_text())["ids"]
    sut, oracle = open_runner(folder, recipe=recipe), open_runner(folder, recipe="fp32")
    trace = sut.forward([Request("document", tuple(ids[:tokens]))], capture=CapturePlan())
    replay = Replay(trace, oracle)
    sizes: dict[int | None, int] = {}
    for capture in trace.captures:
        tensor = trace.tensor(capture)
        sizes[capture.layer] = sizes.get(capture.layer, 0) + tensor.numel() * tensor.element_size()
    # The first replay of a layer dequantizes its weights; that is part of the cost and of the model's memory.
    for layer, stage in replay.family.sites(trace.run.layers):
        replay.site(layer, stage.name)
    before, wall, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    sites = 0
    for layer, stage in Replay(trace, oracle).family.sites(trace.run.layers):
        site = replay.emulate(replay.site(layer, stage.name), recipe)
        sites += site.oracle is not None
    result = {
        "model": model,
        "recipe": recipe,
        "tokens": tokens,
        "sites_replayed": sites,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "largest_layer_bytes": max(size for layer, size in sizes.items() if layer is not None),
        "peak_grew_bytes": peak_bytes() - before,
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [measure(model, recipe, args.tokens) for model, recipe in MODELS]
    print(json.dumps(rows, indent=1))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = {"environment": capture_environment().__dict__, "threads": args.threads, "measured": rows}
        (args.out / "replay.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
