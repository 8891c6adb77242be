"""How often does one `parity decode` call a healthy engine diverged, and how many planted faults does it find?

Run: PYTHONPATH=.:kernels:oracles python benchmarks/decode_level.py --recipe bf16 [--prompts 120] [--faults 4]

The healthy engines are the recipe's own arithmetic in its other orders (tensor cores, split sums, unfused rounding),
and PyTorch's BF16, each on cuts of 20 to 170 ids of the prompts and of held-out files; the noise is what order 0
shows. With `--faults` every fault of FAULTS is planted into such engines, on as many cuts each.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from parity.decode import compare_decoding
from parity.runner import CapturePlan, Generation, Request, Schedule, open_runner
from parity.trace import MemoryTrace

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"bf16": "moe-tiny", "fp8_block": "moe-tiny-fp8", "bf16_torch": "moe-tiny"}
ORDERS = {"bf16": (1, 2, 3, 6, 7, 8, 9), "fp8_block": (1, 2, 3, 6, 7, 8, 9), "bf16_torch": (0,)}
TOKENS = 4

Spoil = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def one_token_up(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """One id of twenty is likelier by a nat."""
    logits[:, ::20] += 1.0
    return logits


def sharper(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """A temperature of 0.9 that nobody asked for."""
    return logits / 0.9


def late_rows(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Beyond position 16 the logits are those of another row by a tenth."""
    late = position >= 16
    logits[late] = 0.9 * logits[late] + 0.1 * logits.roll(1, 0)[late]
    return logits


def decode_rows(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """The last TOKENS - 1 rows, which are decoded, are noisy by 0.3."""
    made = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
    logits[-(TOKENS - 1) :] += 0.3 * made[-(TOKENS - 1) :]
    return logits


def second_best(logits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """In one row of sixteen the two largest logits change places."""
    for row in torch.nonzero(position % 16 == 9).flatten().tolist():
        a, b = logits[row].topk(2).indices.tolist()
        logits[row, [a, b]] = logits[row, [b, a]]
    return logits


FAULTS: dict[str, Spoil] = {one.__name__: one for one in (one_token_up, sharper, late_rows, decode_rows, second_best)}


class Spoiled:
    """A runner whose logits are spoiled, forced and free."""

    def __init__(self, inner: Any, spoil: Spoil):
        self.inner, self.spoil = inner, spoil

    def describe(self) -> Any:
        return self.inner.describe()

    def forward(self, requests: Any, *, schedule: Any = Schedule(), capture: Any = None, **rest: Any) -> Any:
        trace = self.inner.forward(requests, schedule=schedule, capture=capture, **rest)
        tensors = {one.number: trace.tensor(one) for one in trace.captures}
        for one in trace.select(stage="logits"):
            tensors[one.number] = self.spoil(tensors[one.number].clone(), torch.from_numpy(one.rows.position))
        return MemoryTrace(trace.run, trace.captures, tensors)

    def generate(self, request: Any, *, max_new_tokens: int, **rest: Any) -> Generation:
        ids = list(request.ids)
        for _ in range(max_new_tokens):
            trace = self.forward([Request("g", tuple(ids))], capture=CapturePlan(stages=("logits",)))
            ids.append(int(trace.tensor(trace.select(stage="logits")[-1])[-1].argmax()))
        return Generation(tuple(ids[len(request.ids) :]))


def cuts(count: int, seed: int) -> list[Request]:
    """Windows of 20 to 170 ids."""
    folders = (ROOT / "fixtures" / name for name in ("prompts", "heldout"))
    documents = [json.loads(path.read_text())["ids"] for folder in folders for path in sorted(folder.glob("*.json"))]
    rng, found = random.Random(seed), []
    for n in range(count):
        ids = rng.choice([ids for ids in documents if len(ids) > 170])
        length = rng.randrange(20, 170)
        at = rng.randrange(len(ids) - length)
        found.append(Request(f"cut {n}", tuple(ids[at : at + length])))
    return found


def main() -> None:
    """Measure, print, and write where asked."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--recipe", choices=sorted(MODELS), default="bf16")
    asked.add_argument("--prompts", type=int, default=120)
    asked.add_argument("--faults", type=int, default=0)
    asked.add_argument("--seed", type=int, default=5)
    asked.add_argument("--out", type=Path)
    options = asked.parse_args()
    folder = ROOT / "fixtures" / "models" / MODELS[options.recipe]
    exact = open_runner(f"recipe:{folder}", recipe="fp32")
    near = open_runner(f"recipe:{folder}", recipe=options.recipe)
    if options.recipe == "bf16_torch":
        engines = [open_runner(f"torch:{folder}", dtype="bfloat16")]
    else:
        engines = [open_runner(f"recipe:{folder}", recipe=options.recipe, order=at) for at in ORDERS[options.recipe]]
    begun = time.process_time()

    def compare(sut: Any, request: Request) -> Any:
        return compare_decoding(sut=sut, oracle=exact, request=request, tokens=TOKENS, emulation=near)

    found: dict[str, Any] = {"recipe": options.recipe, "prompts": options.prompts, "seed": options.seed}
    verdicts: Counter[str] = Counter()
    first: list[str] = []
    for n, request in enumerate(cuts(options.prompts, options.seed)):
        one = compare(engines[n % len(engines)], request)
        verdicts[one.verdict.value] += 1
        if one.repeated is not None:
            first.append(f"{request.name}, {len(request.ids)} ids: {'again' if one.repeated else 'not again'}")
    found["healthy"] = {"verdicts": dict(verdicts), "left the noise on the first prompt": first}
    for name, spoil in FAULTS.items():
        verdicts = Counter()
        for n, request in enumerate(cuts(options.faults, options.seed + 1)):
            one = compare(Spoiled(engines[n % len(engines)], spoil), request)
            verdicts[one.verdict.value + ("" if one.repeated is not False else ", once")] += 1
        found[name] = dict(verdicts)
    found["cpu_seconds"] = round(time.process_time() - begun, 1)
    text = json.dumps(found, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
