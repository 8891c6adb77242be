"""How long do all detectors together take on one layer's stages of 1024 tokens, on one core, clean and with faults?

Processor time, which other work on the machine does not change.

Run: PYTHONPATH=.:kernels:oracles OMP_NUM_THREADS=1 python3 benchmarks/fingerprint_time.py --out DIR
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from parity.fingerprint import DETECTORS, ErrorField, read_fingerprints
from parity.ladder.replay import Replay
from parity.runner import CapturePlan, Request, open_runner
from parity.trace import capture_environment

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "fixtures/models/moe-tiny-fp8"
TOKENS, LAYER = 1024, 1


def fields() -> list[ErrorField]:
    """Every stage of one layer and those outside the layers, the FP8 recipe's emulation against exact arithmetic."""
    runner = open_runner(f"recipe:{MODEL}")
    ids: list[int] = []
    for path in sorted((ROOT / "fixtures/prompts").glob("*.json")):
        ids += json.loads(path.read_text())["ids"]
    trace = runner.forward([Request("joined", tuple(ids[:TOKENS]))], capture=CapturePlan())
    replay = Replay(trace, runner)
    found = []
    for layer, stage in replay.family.sites(trace.run.layers):
        site = replay.site(layer, stage.name) if layer in (None, LAYER) else None
        if site is not None and site.sut is not None and site.oracle is not None:
            found.append(ErrorField.of(site.sut, site.oracle, inputs=site.inputs, hyper=runner.describe().hyper))
    return found


def faulty(field: ErrorField) -> ErrorField:
    """Rows permuted: nothing agrees, so that no detector ends early."""
    order = torch.randperm(field.tokens, generator=torch.Generator().manual_seed(0))
    return field.with_sut(field.sut[order])


def timed(field: ErrorField) -> tuple[float, list[str]]:
    fresh = field.with_sut(field.sut)  # sums are kept with a field
    start = time.process_time()
    found = read_fingerprints(fresh)
    return time.process_time() - start, [f.cause for f in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows = []
    for field in fields():
        (clean, said), (wrong, told) = timed(field), timed(faulty(field))
        rows.append({"site": field.name, "clean_s": clean, "clean": said, "permuted_s": wrong, "permuted": told})
    totals = {key: sum(row[key] for row in rows) for key in ("clean_s", "permuted_s")}
    result = {"tokens": TOKENS, "stages": len(rows), "detectors": len(DETECTORS), **totals, "by_site": rows}
    out.mkdir(parents=True, exist_ok=True)
    content = {"environment": capture_environment().__dict__, **result}
    (out / "fingerprint-time.json").write_text(json.dumps(content, indent=2) + "\n")
    print(
        f"{len(rows)} stages, {TOKENS} tokens: clean {totals['clean_s']:.2f} s, permuted {totals['permuted_s']:.2f} s"
    )


if __name__ == "__main__":
    main()
