"""How long does replay of every stage of every layer take, and how much memory above the model and the trace?

The budget: 45 s over 512 positions on two cores, and memory within one layer's captures. One capture of the SUT, here
the recipe's own emulation, in memory; each stage replayed in exact arithmetic and in the recipe and judged by both
gates of the stored floor, those outside the layers (the logits) in pieces.

A process for each measurement, after a short pass that leaves the weights in both recipes' forms and the libraries'
buffers behind: those are the model's. Two measures: resident memory, with the allocator told to give every freed tensor
back at once (MALLOC_MMAP_THRESHOLD_), since glibc otherwise keeps up to 64 MB of what was freed, whatever the work; and
in a pass of its own what was asked for and not yet freed, which is the same in every run: bytes of tensors, those
inside torch's operations too, plus bytes of Python and NumPy, the peaks of both added whether or not they coincide.

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
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from parity.floor import Floor
from parity.ladder.replay import Replay, ReplayedSite
from parity.records import Summary
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


@contextmanager
def requested(into: dict[str, int]) -> Iterator[None]:
    """Note the most bytes of `tensors` that were allocated and not yet freed, and of `python`, NumPy's among them."""
    gc.collect()
    tracemalloc.start()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        before = tracemalloc.get_traced_memory()[0]
        yield
        into["python"] = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    at_each = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    into["tensors"] = max(accumulate(size for _, size in sorted(at_each)), default=0)


class Case:
    """A model ready to be replayed: weights in both recipes' forms, and the stored floor."""

    def __init__(self, model: str, recipe: str) -> None:
        folder = f"recipe:{ROOT / 'fixtures/models' / model}"
        self.sut, self.oracle = open_runner(folder, recipe=recipe), open_runner(folder, recipe="fp32")
        self.floor = Floor.load(ROOT / f"fixtures/floors/{recipe}.json")
        self.judge(Replay(self.captured(WARM), self.oracle))

    def captured(self, tokens: int) -> Trace:
        return self.sut.forward([Request("document", prompt(tokens))], capture=CapturePlan())

    def judge(self, replay: Replay) -> Summary:
        return replay.compare(floor=self.floor)

    def count_requested(self, trace: Trace, *, hold: bool = False) -> dict[str, int]:
        """The bytes of `requested`, of one replay of everything, judged."""
        asked, replay = dict[str, int](), (Holding if hold else Replay)(trace, self.oracle)
        with requested(asked):
            self.judge(replay)
        return asked


def measure(model: str, recipe: str, tokens: int, *, count: bool = True) -> dict[str, object]:
    """Time and growth of one replay of everything, judged. count: what it requested as well, in a second one."""
    case, grew = Case(model, recipe), dict[str, int]()
    trace = case.captured(tokens)
    sizes, replay = sizes_of(trace), Replay(trace, case.oracle)
    wall, cpu = time.perf_counter(), time.process_time()
    with growth(grew, "replay"):
        judged = case.judge(replay)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    del replay
    asked = case.count_requested(trace) if count else None
    return {
        "model": model,
        "recipe": recipe,
        "tokens": tokens,
        "sites_replayed": sum(c.rows > 0 for c in judged.comparisons),
        "wall_s": wall,
        "cpu_s": cpu,
        "largest_layer_bytes": max(size for layer, size in sizes.items() if layer is not None),
        "outside_layers_bytes": sizes[None],
        "grew_bytes": grew["replay"],
        "requested_bytes": asked and sum(asked.values()),
        "of_them_tensors": asked and asked["tensors"],
    }


def measure_apart(model: str, recipe: str, tokens: int, threads: int, *, count: bool = True) -> dict[str, Any]:
    """`measure` in a process of its own."""
    asked = [sys.executable, __file__, "--one", model, recipe, "--tokens", str(tokens), "--threads", str(threads)]
    asked += [] if count else ["--no-count"]
    return json.loads(subprocess.run(asked, check=True, capture_output=True, env=os.environ | GIVES_BACK).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "RECIPE"), help="in this process, one JSON line")
    parser.add_argument("--no-count", dest="count", action="store_false", help="resident memory only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        model, recipe = args.one
        print(json.dumps(measure(model, recipe, args.tokens[0], count=args.count)))
        return
    rows = [measure_apart(*one, tokens, args.threads) for one in MODELS for tokens in args.tokens]
    print(json.dumps(rows, indent=1))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = {"environment": capture_environment().__dict__, "threads": args.threads, "measured": rows}
        (args.out / "replay.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
