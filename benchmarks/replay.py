"""How long does replay of every stage of every layer take, and how much memory above the model and the trace?

The budget: 45 s over 512 positions on two cores, and memory within one layer's captures. One capture of the SUT, here
the recipe's own emulation, in memory; each stage replayed in exact arithmetic and in the recipe and judged by both
gates of the stored floor, those outside the layers (the logits) in pieces.

A process for each measurement, after a short pass that leaves the weights in both recipes' forms and the libraries'
buffers behind: those are the model's. The allocator is told to give every freed tensor back at once
(MALLOC_MMAP_THRESHOLD_), since glibc otherwise keeps up to 64 MB of what was freed, whatever the work.

Run: PYTHONPATH=.:kernels:oracles python3 benchmarks/replay.py --out DIR [--tokens 512 2048] [--threads 2]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from parity.floor import Floor
from parity.ladder.replay import Replay, ReplayedSite
from parity.runner import CapturePlan, Request, open_runner
from parity.trace import Trace, capture_environment

ROOT = Path(__file__).resolve().parent.parent
MODELS = (("moe-tiny-fp8", "fp8_block"), ("moe-tiny", "bf16"))
WARM = 256
"""Tokens of the first, short pass."""

GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def resident(key: str) -> int:
    """Bytes of `VmRSS`, or of `VmHWM`, the most since it was last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


@contextmanager
def growth(into: dict[str, int], name: str) -> Iterator[None]:
    """Note by how much resident memory grew at the most; the largest of all calls of a name."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    yield
    into[name] = max(into.get(name, 0), resident("VmHWM") - before)


def prompt(tokens: int) -> tuple[int, ...]:
    """So many ids of the shipped documents, from the first again where they end."""
    ids: list[int] = []
    for path in sorted((ROOT / "fixtures/prompts").glob("document-*.json")):
        ids += json.loads(path.read_text())["ids"]
    return tuple((ids * (tokens // len(ids) + 1))[:tokens])


def sizes_of(trace: Trace) -> dict[int | None, int]:
    """Bytes of captures by layer; None for those outside the layers."""
    sizes: dict[int | None, int] = {}
    for capture in trace.captures:
        tensor = trace.tensor(capture)
        sizes[capture.layer] = sizes.get(capture.layer, 0) + tensor.numel() * tensor.element_size()
    return sizes


class Holding(Replay):
    """A replay that leaks: it keeps every piece."""

    def pieces(self, layer: int | None, stage: str) -> Iterator[list[ReplayedSite]]:
        self.held = getattr(self, "held", [])
        for sites in super().pieces(layer, stage):
            self.held.append(sites)
            yield sites


def measure(model: str, recipe: str, tokens: int, *, hold: bool = False) -> dict[str, object]:
    """Time and growth of one replay of everything, judged. hold: keep every piece, as a replay that leaks would."""
    folder = f"recipe:{ROOT / 'fixtures/models' / model}"
    sut, oracle = open_runner(folder, recipe=recipe), open_runner(folder, recipe="fp32")
    floor = Floor.load(ROOT / f"fixtures/floors/{recipe}.json")

    def captured(count: int) -> Trace:
        return sut.forward([Request("document", prompt(count))], capture=CapturePlan())

    Replay(captured(WARM), oracle).compare(floor=floor)
    trace, grew = captured(tokens), dict[str, int]()
    sizes, replay = sizes_of(trace), (Holding if hold else Replay)(trace, oracle)
    wall, cpu = time.perf_counter(), time.process_time()
    with growth(grew, "replay"):
        judged = replay.compare(floor=floor)
    return {
        "model": model,
        "recipe": recipe,
        "tokens": tokens,
        "sites_replayed": sum(c.rows > 0 for c in judged.comparisons),
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "largest_layer_bytes": max(size for layer, size in sizes.items() if layer is not None),
        "outside_layers_bytes": sizes[None],
        "grew_bytes": grew["replay"],
    }


def measure_apart(model: str, recipe: str, tokens: int, threads: int, *, hold: bool = False) -> dict[str, Any]:
    """`measure` in a process of its own."""
    asked = [sys.executable, __file__, "--one", model, recipe, "--tokens", str(tokens), "--threads", str(threads)]
    asked += ["--hold"] if hold else []
    return json.loads(subprocess.run(asked, check=True, capture_output=True, env=os.environ | GIVES_BACK).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "RECIPE"), help="in this process, one JSON line")
    parser.add_argument("--hold", action="store_true", help="keep every site, as a replay that leaks would")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        model, recipe = args.one
        print(json.dumps(measure(model, recipe, args.tokens[0], hold=args.hold)))
        return
    rows = [measure_apart(*one, tokens, args.threads) for one in MODELS for tokens in args.tokens]
    print(json.dumps(rows, indent=1))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = {"environment": capture_environment().__dict__, "threads": args.threads, "measured": rows}
        (args.out / "replay.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
