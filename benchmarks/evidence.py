"""What do the instruments say of each planted fault, each control and the healthy engine? One table, blind.

For every case one climb: the checks that need no oracle (coverage, poison, history), the first stage that shows an
error, the first that adds one, slice, cause class, score over the floor, and what the grafts prove.

    PYTHONPATH=.:kernels:oracles python benchmarks/evidence.py --out benchmarks/results [--jobs 2] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from parity.climb import investigate
from parity.compare import first_divergence
from parity.demo import MODEL, PROMPT, demo_case
from parity.errors import ParityError
from parity.faults import shipped_faults
from parity.invariance import Invariance
from parity.reading import read_record
from parity.records import as_json, site_name
from parity.report.quoting import markdown_table
from parity.stages import family
from parity.trace import capture_environment

FAULTS = (
    "moe_tile_truncation",
    "moe_stale_rows",
    "moe_tile_amplified",
    "moe_scale_swapped",
    "qk_norm_missing",
    "rope_theta_default",
    "router_input_wrong_buffer",
    "layout_transposed",
)
RUNGS = (2, 3, 4, 5, 6, 7)
"""Prompt and checkpoint are left out: they would name some of these faults before any stage is looked at."""

WITHOUT_ORACLE = ("coverage", "poison", "history")
COLUMNS = (
    "case",
    "no oracle",
    "first shows",
    "first adds",
    "layers",
    "slice",
    "cause",
    "over floor",
    "gap",
    "proof",
    "s",
)
"""`gap`: from noise to bug, the case's worst score over the floor by that of the healthy engine on the same prompt."""


def cases() -> list[str]:
    """The planted faults of the mixture of experts, its negative controls, and the healthy engine (empty name)."""
    controls = [
        fault.name for fault in shipped_faults().values() if fault.control and not fault.needs and not fault.prompt
    ]
    return ["", *FAULTS, *sorted(controls)]


def examine_case(name: str) -> dict[str, Any]:
    """Everything the instruments say of one engine; they are told nothing about it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="parity-evidence-") as folder:
        case = replace(demo_case(name or None), checks=WITHOUT_ORACLE)
        found = investigate(case, Path(folder) / "case", only=RUNGS)
        chained, isolated = found.summary(4, "chained"), found.summary(5, "isolated")
        invariances, symptom = found.rung(3), found.rung(2)
    assert chained is not None
    assert isolated is not None
    assert invariances is not None
    assert symptom is not None
    shows = first_divergence(chained, family("qwen3_moe"))
    checked = [read_record(Invariance, one) for one in invariances.evidence["invariances"]]
    return {
        "case": name or "healthy",
        "finding": as_json(found.finding),
        "invariances": {one.name: [one.outcome.value, one.where] for one in checked if one.name in WITHOUT_ORACLE},
        "first_shows": shows.name if shows is not None else None,
        "chained_over_floor": chained.worst_over_floor,
        "isolated_over_floor": isolated.worst_over_floor,
        "within_floor": chained.healthy and isolated.healthy,
        "text": [symptom.evidence["texts"][side] for side in ("sut", "oracle")],
        "seconds": found.seconds,
    }


def guarded(name: str) -> dict[str, Any]:
    """`examine_case`; a refusal or a crash is a result of its own and stops no other case."""
    try:
        return examine_case(name)
    except ParityError as error:
        return {"case": name or "healthy", "error": str(error)}
    except Exception as error:
        return {"case": name or "healthy", "error": f"{type(error).__name__}: {error}"}


def gap(result: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    """How many times a fault's score stands above the healthy engine's worst; empty without a fault or its measure."""
    noise = next(
        (one["isolated_over_floor"] for one in results if one["case"] == "healthy" and "error" not in one), None
    )
    bug = result["finding"]["over_floor"]
    return f"{bug / noise:.3g}" if noise and bug and result["finding"]["verdict"] == "fault" else ""


def row(result: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[str]:
    """One line of the table; results: of all cases, the healthy engine's among them."""
    if "error" in result:
        return [result["case"], result["error"], *[""] * (len(COLUMNS) - 2)]
    finding = result["finding"]
    slice_ = {key: value for key, value in finding["slice"].items() if value}
    if "rows" in slice_:
        slice_["rows"] = f"{min(slice_['rows'])}..{max(slice_['rows'])}"
    layers = finding["layers"]
    proof = finding["proof"]
    over = finding["over_floor"] if finding["verdict"] == "fault" else result["isolated_over_floor"]
    return [
        result["case"],
        ", ".join(f"{name} {what[0]} {what[1]}".strip() for name, what in result["invariances"].items()),
        result["first_shows"] or "nothing",
        site_name(layers[0] if layers else None, finding["stage"]) if finding["stage"] else "nothing",
        ", ".join(map(str, layers)),
        "; ".join(f"{key} {value}" for key, value in slice_.items()),
        finding["cause"] or finding["verdict"],
        f"{over:.3g}" if isinstance(over, float) else str(over),
        gap(result, results),
        ("proved" if proof["proved"] else "not proved") if proof else "",
        f"{result['seconds']:.0f}",
    ]


def write_table(results: Sequence[dict[str, Any]], out: Path) -> None:
    """evidence.json and evidence.md in the folder `out`."""
    environment = as_json(capture_environment(device="cuda" if torch.cuda.is_available() else "cpu", interpreted=False))
    out.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment, "prompt": PROMPT, "model": MODEL.name, "cases": list(results)}
    (out / "evidence.json").write_text(json.dumps(content, indent=1) + "\n")
    table = markdown_table(COLUMNS, [row(result, results) for result in results])
    head = (
        f"# What the instruments say, case by case\n\nPrompt `{PROMPT}` on `{MODEL.name}`; {environment['device']}.\n\n"
    )
    (out / "evidence.md").write_text(head + table + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    names = cases() if options.only is None else [("" if name == "healthy" else name) for name in options.only]
    results = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for result in pool.map(guarded, names):
            results.append(result)
            print(" | ".join(row(result, results)), flush=True)
            write_table(results, options.out)


if __name__ == "__main__":
    main()
