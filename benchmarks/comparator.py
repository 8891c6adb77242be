"""How fast is the comparator against its peers and the memory, and how much memory does it take?

    PYTHONPATH=. python benchmarks/comparator.py --out FILE [--mebibytes 256] [--peers PYTHON] [--big GIB]

Everything is measured in one run on one BF16 pair, so only the ratios mean something. The ceiling is reading the same
bytes on every core. msprobe (`mindstudio-probe`) and Polygraphy are measured where they can be imported (give a folder
of packages by --peers FOLDER; never a dependency of this project); a missing one is a counted skip.
`--big 6` makes two .safetensors of 6 GiB together beside --out, compares them with and without a floor, deletes them.
SGLang's comparator is measured as a naive version of its formulas and labelled so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from parity.compare import compare_files, compare_pair
from parity.floor import derive_floor
from parity.metrics import column_edges, fold_moments, fold_rounded, native_state, pair_moments, usable_threads
from parity.records import as_json
from parity.trace import capture_environment

WIDTH = 4096
REPEATS = 3


def make_pair(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Oracle and SUT, [rows, 4096] bf16, 1 % apart."""
    g = torch.Generator().manual_seed(seed)
    oracle = torch.randn(rows, WIDTH, generator=g)
    return oracle.bfloat16(), (oracle + 0.01 * torch.randn(rows, WIDTH, generator=g)).bfloat16()


def best_speeds(
    candidates: dict[str, tuple[Callable[[], Any], int]], repeats: int = REPEATS
) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """GB/s by the clock and by processor time of (what, bytes), and who failed with what.

    The best of some rounds, each of which runs every candidate once: what else the machine does hits all alike.
    """
    clock, cpu, failed = dict.fromkeys(candidates, 0.0), dict.fromkeys(candidates, 0.0), {}
    for _ in range(repeats):
        for name, (what, size) in candidates.items():
            if name in failed:
                continue
            start, busy = time.perf_counter(), time.process_time()
            try:
                what()
            except Exception as error:  # a peer's own failure is a skip that is shown, whatever it is
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            clock[name] = max(clock[name], size / (time.perf_counter() - start) / 1e9)
            cpu[name] = max(cpu[name], size / (time.process_time() - busy) / 1e9)
    speeds = [{n: round(v, 3) for n, v in d.items() if n not in failed} for d in (clock, cpu)]
    return speeds[0], speeds[1], failed


def read_all(sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Sum every 8-byte word of both sides, one part a core: numpy's add.reduce is bound by memory."""
    words = [t.view(-1).view(torch.int64).numpy() for t in sides]
    parts = [part for w in words for part in np.array_split(w, 32)]
    with ThreadPoolExecutor(usable_threads()) as pool:
        list(pool.map(np.add.reduce, parts))


def assert_close(y: torch.Tensor, x: torch.Tensor) -> None:
    torch.testing.assert_close(x, y, rtol=1e9, atol=1e9)


def naive_torch(y: torch.Tensor, x: torch.Tensor) -> None:
    a, b = y.float(), x.float()
    d = b - a
    _ = d.norm(dim=1) / a.norm(dim=1), torch.cosine_similarity(a, b, dim=1), d.abs().amax(1)


def naive_numpy(y: torch.Tensor, x: torch.Tensor) -> None:
    a, b = y.float().numpy(), x.float().numpy()
    d = b - a
    _ = np.einsum("ij,ij->i", d, d), np.einsum("ij,ij->i", a, b), np.abs(d).max(1)


QUANTILES_BELOW = 10_000_000
"""Elements from which on SGLang's comparator leaves its quantiles out."""


def naive_sglang(y: torch.Tensor, x: torch.Tensor, quantiles_below: int = QUANTILES_BELOW) -> None:
    """What SGLang's dump comparator prints of a pair, written from its formulas: not its code.

    1 - 2<x, y> / (<x, x> + <y, y>) in double; largest and mean absolute difference in fp32 and where the largest is; of
    each side mean, deviation, extremes, and for a tensor of fewer elements than `quantiles_below` the 1, 5, 95 and 99 %
    quantiles, one call each over all elements.
    """
    a, b = x.float(), y.float()
    d = (a - b).abs()
    wide_a, wide_b = a.double(), b.double()
    _ = 1 - 2 * (wide_a * wide_b).sum() / (wide_a * wide_a + wide_b * wide_b).sum()
    _ = d.max(), d.mean(), np.unravel_index(int(d.argmax()), d.shape)
    for side in (a, b):
        _ = side.mean(), side.std(), side.min(), side.max()
        if side.numel() < quantiles_below:
            _ = [torch.quantile(side, mark) for mark in (0.01, 0.05, 0.95, 0.99)]


def polygraphy(y: torch.Tensor, x: torch.Tensor) -> None:
    from polygraphy.comparator import Comparator, CompareFunc, RunResults  # type: ignore[reportMissingImports]
    from polygraphy.comparator.struct import IterationResult  # type: ignore[reportMissingImports]
    from polygraphy.logger import G_LOGGER  # type: ignore[reportMissingImports]

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    runs = RunResults()
    for name, side in (("sut", x), ("oracle", y)):
        runs.append((name, [IterationResult({"t": side.float().numpy()})]))
    Comparator.compare_accuracy(runs, compare_func=CompareFunc.simple(atol=1e9))


def msprobe(y: torch.Tensor, x: torch.Tensor) -> None:
    from msprobe.core.compare.npy_compare import compare_ops_apply  # type: ignore[reportMissingImports]

    compare_ops_apply(y.float().numpy(), x.float().numpy(), False, "")


PEERS = {
    "torch.testing.assert_close": assert_close,
    "naive torch, row metrics": naive_torch,
    "naive numpy, row metrics": naive_numpy,
    "SGLang's formulas (naive)": naive_sglang,
    "SGLang's formulas, no quantiles": partial(naive_sglang, quantiles_below=0),
    "Polygraphy": polygraphy,
    "msprobe": msprobe,
}


def measure(rows: int) -> dict[str, Any]:
    """GB/s of both sides together, peers on a 16th of the rows; ratios to the ceiling and to each peer."""
    y, x = make_pair(rows)
    size = 2 * y.numel() * y.element_size()
    edges = column_edges(("D",), (WIDTH,)).edges
    model = derive_floor("bfloat16").model
    g = torch.Generator().manual_seed(2)
    z = (y.float() * (1 + 2.0**-14 * torch.randn(y.shape, generator=g))).bfloat16()  # honest: some bits of y differ
    candidates: dict[str, tuple[Callable[[], Any], int]] = {
        "read (ceiling)": (lambda: read_all((y, x)), size),
        "fold_moments": (lambda: fold_moments(oracle=y, sut=x, edges=edges), size),
        "fold_rounded (derived floor)": (lambda: fold_rounded(oracle=y, sut=z, edges=edges, model=model), size),
        "fold_rounded, 1 % apart": (lambda: fold_rounded(oracle=y, sut=x, edges=edges, model=model), size),
        "pair_moments": (lambda: pair_moments(oracle=y, sut=x, edges=edges), size),
        "compare_pair": (lambda: compare_pair(oracle=y, sut=x, axes=("T", "D"), stage="resid.out", layer=0), size),
        "fold_moments, one thread": (lambda: fold_moments(oracle=y, sut=x, edges=edges, threads=1), size),
    }
    for dtype in (torch.float32, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2):
        a, b = (t[: rows // 4].float().to(dtype) for t in (y, x))
        name = f"fold_moments, {str(dtype).removeprefix('torch.')}"
        candidates[name] = (
            lambda a=a, b=b: fold_moments(oracle=a, sut=b, edges=edges),
            2 * a.numel() * a.element_size(),
        )
    few = max(rows // 16, 1)
    for name, peer in PEERS.items():
        candidates[name] = (lambda peer=peer: peer(y[:few], x[:few]), size * few // rows)
    clock, cpu, skipped = best_speeds(candidates)
    ours = clock["fold_moments"]
    return {
        "gigabytes_per_second": clock,
        "gigabytes_per_processor_second": cpu,
        "ours_over": {n: round(ours / clock[n], 2) for n in ("read (ceiling)", *PEERS) if n in clock},
        "time of others over fold_moments": {
            name.removeprefix("fold_"): round(ours / speed, 2) for name, speed in clock.items() if "fold_" in name
        },
        "skipped": skipped,
    }


def anonymous_mebibytes() -> float:
    """Memory of this process that is no file's, now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def measure_big(gibibytes: float, folder: Path) -> dict[str, float]:
    """Two .safetensors of one BF16 tensor, this large together, made on the fly: speed, and memory beyond the maps."""
    rows = int(gibibytes * 2**30) // (4 * WIDTH)
    block_y, block_x = make_pair(4096, seed=1)
    size = 2 * rows * WIDTH
    header = json.dumps({"t": {"dtype": "BF16", "shape": [rows, WIDTH], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    told = {"gigabytes": round(2 * size / 1e9, 2)}
    with tempfile.TemporaryDirectory(dir=folder) as scratch, Progress() as bar:
        paths = {side: Path(scratch) / f"{side}.safetensors" for side in ("oracle", "sut")}
        task = bar.add_task("writing", total=rows)
        with paths["oracle"].open("wb") as file_y, paths["sut"].open("wb") as file_x:
            for file in (file_y, file_x):
                file.write(len(header).to_bytes(8, "little") + header)
            for first in range(0, rows, 4096):
                n = min(4096, rows - first)
                for file, block in ((file_y, block_y), (file_x, block_x)):
                    block[:, 0] = 1 + first // 4096  # no row occurs twice: a repeated one is measured again by cells
                    file.write(block[:n].view(torch.int16).numpy().data)
                bar.update(task, advance=n)
        for name, floor in (("measured", None), ("derived", derive_floor("bfloat16"))):
            task = bar.add_task(name, total=2 * size)
            before, peak = anonymous_mebibytes(), [0.0]
            start = time.perf_counter()
            with watched(peak):
                compare_files(**paths, floor=floor, progress=lambda _, n, task=task: bar.update(task, advance=n))
            told[f"{name}_gigabytes_per_second"] = round(2 * size / (time.perf_counter() - start) / 1e9, 2)
            told[f"{name}_peak_mebibytes_beyond_the_maps"] = round(peak[0] - before, 1)
    return told


@contextmanager
def watched(peak: list[float]) -> Iterator[None]:
    """The largest anonymous memory meanwhile, in MiB, looked at 200 times a second."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous_mebibytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mebibytes", type=int, default=256, help="of both sides together")
    parser.add_argument(
        "--peers",
        type=Path,
        default=None,
        help="folder of packages, or virtual environment, with msprobe and polygraphy",
    )
    parser.add_argument("--big", type=float, default=0.0, help="GiB of a mapped pair, both sides together")
    asked = parser.parse_args()
    if asked.peers is not None:
        # A virtual environment stands for the packages in it.
        folders = sorted(asked.peers.glob("lib/python*/site-packages")) or [asked.peers]
        sys.path += map(str, folders)
    result = {
        "environment": as_json(capture_environment()),
        "threads": usable_threads(),
        "comparator": native_state().state.split(",")[0],
        **measure(asked.mebibytes * 2**20 // (4 * WIDTH)),
    }
    if asked.big:
        result["pair of files"] = measure_big(asked.big, asked.out.parent.resolve())
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=1))


if __name__ == "__main__":
    main()
