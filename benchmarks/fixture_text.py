"""How often does the healthy engine write the oracle's tokens, and how often does the incident change them?

    PYTHONPATH=.:kernels:oracles python benchmarks/fixture_text.py --out FILE [--kind document]

Runs the shipped engine, FP8, on the shipped prompts with and without `moe_tile_truncation` and compares 64 greedy
tokens with the BF16 oracle's, which are stored with each prompt. Minutes on a GPU; a minute a prompt interpreted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Decides interpreted or compiled before anything imports triton.
import parity_kernels.backend  # noqa: F401  isort: skip

from rich.progress import track

from parity.records import as_json
from parity.runner import Request
from parity_kernels.forward.runner import open_runner

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
FAULT = "moe_tile_truncation"


def prompts(kind: str = "*") -> list[dict[str, Any]]:
    """The shipped prompts of a kind (`document`, `short`, `dialogue`, `heldout`, `extra`), by name."""
    return [json.loads(path.read_text()) for path in sorted((FIXTURES / "prompts").glob(f"{kind}-*.json"))]


def measure(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Continue each prompt with both engines: tokens that are the oracle's before the first that is not."""
    model = str(FIXTURES / "models" / "moe-tiny-fp8")
    engines = {"healthy": open_runner(model), "incident": open_runner(model, fault=FAULT)}
    rows = []
    for prompt in track(chosen, description="prompts"):
        truth = tuple(prompt["continuation_oracle"])
        row: dict[str, Any] = {"name": prompt["name"], "kind": prompt["kind"], "tokens": len(prompt["ids"])}
        for name, engine in engines.items():
            start = time.perf_counter()
            made = engine.generate(Request(prompt["name"], tuple(prompt["ids"])), max_new_tokens=len(truth))
            row[name] = next((n for n, (a, b) in enumerate(zip(made.ids, truth, strict=True)) if a != b), len(truth))
            row[f"{name}_text"] = made.text
            row[f"{name}_seconds"] = round(time.perf_counter() - start, 2)
        rows.append(row)
    return {"environment": as_json(engines["healthy"].describe().environment), "shares": shares(rows), "prompts": rows}


def shares(rows: Sequence[dict[str, Any]], length: int = 64, long: int = 600) -> dict[str, str]:
    """Counts over the prompts: continuations that are the oracle's in full, and long ones that the incident changes."""
    kept = [row for row in rows if row["healthy"] == length]
    documents = [row for row in rows if row["kind"] == "document" and row["tokens"] >= long]
    changed = [row for row in documents if row["incident"] < length]
    return {
        "healthy engine writes the oracle's 64 tokens": f"{len(kept)} of {len(rows)}",
        "incident changes the text of long documents": f"{len(changed)} of {len(documents)}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", default="*")
    asked = parser.parse_args()
    result = measure(prompts(asked.kind))
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    for what, share in result["shares"].items():
        print(f"{what}: {share}")


if __name__ == "__main__":
    main()
