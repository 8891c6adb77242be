"""What do statistics say of a tensor that is not kept? Accumulates moments in fp64 and writes them as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from parity.records import Run, as_json
from parity.trace.failure import make_folder
from parity.trace.lock import Claim

STATS = "stats.json"
Key = tuple[int | None, str, str, int]


def measure(tensor: torch.Tensor) -> torch.Tensor:
    """[7] fp64 on the tensor's device: finite count, mean, sum of squared deviations, min, max, sum of squares, zeros.

    tensor: any shape and dtype, bf16 and fp8 included; every value is converted to fp64 first, exactly. Moments run
    over finite values only, so that one NaN does not hide the rest; min and max are +inf and -inf when there are none.
    """
    # fp8 has no direct conversion to fp64 on every backend; fp32 holds it exactly.
    wide = tensor.detach().float().double() if tensor.element_size() == 1 else tensor.detach().double()
    finite = torch.isfinite(wide)
    count = finite.sum().double()
    kept = torch.where(finite, wide, 0.0)
    mean = kept.sum() / count.clamp(min=1)
    deviation = torch.where(finite, wide - mean, 0.0)
    low = torch.where(finite, wide, math.inf).amin() if wide.numel() else wide.new_tensor(math.inf)
    high = torch.where(finite, wide, -math.inf).amax() if wide.numel() else wide.new_tensor(-math.inf)
    zeros = (wide == 0).sum().double()
    return torch.stack([count, mean, (deviation**2).sum(), low, high, (kept**2).sum(), zeros])


class Statistics:
    """Statistics by (layer, stage, phase, step); the chunks of one step are merged."""

    def __init__(self) -> None:
        self._moments: dict[Key, tuple[int, int, list[float]]] = {}

    def add(self, key: Key, *, rows: int, numel: int, moments: list[float]) -> None:
        """Merge the [7] moments of `measure` for `rows` rows of `numel` values in all."""
        if key in self._moments:
            seen_rows, seen_numel, seen = self._moments[key]
            rows, numel, moments = seen_rows + rows, seen_numel + numel, _merge(seen, moments)
        self._moments[key] = (rows, numel, moments)

    def __len__(self) -> int:
        return len(self._moments)

    def records(self) -> list[dict[str, Any]]:
        """One JSON object a (layer, stage, phase, step), in order of first capture.

        count: values seen. mean, std (population), min, max, l2 are over the finite ones and null when there are none;
        nonfinite and zeros are counts.
        """
        found = []
        for (layer, stage, phase, step), (rows, numel, moments) in self._moments.items():
            finite, mean, squares, low, high, energy, zeros = moments
            some = finite > 0
            found.append(
                {
                    "layer": layer,
                    "stage": stage,
                    "phase": phase,
                    "step": step,
                    "rows": rows,
                    "count": numel,
                    "mean": mean if some else None,
                    "std": math.sqrt(squares / finite) if some else None,
                    "min": low if some else None,
                    "max": high if some else None,
                    "l2": math.sqrt(energy) if some else None,
                    "nonfinite": numel - int(finite),
                    "zeros": int(zeros),
                }
            )
        return found

    def encode(self, run: Run, *, complete: bool) -> bytes:
        """What `stats.json` holds."""
        value = {
            "format": "parity-stats",
            "version": 1,
            "complete": complete,
            "run": as_json(run),
            "statistics": as_json(self.records()),
        }
        return json.dumps(value, indent=1, allow_nan=False).encode()

    def write(self, folder: str | Path, run: Run, *, complete: bool) -> Path:
        """Write `stats.json` into `folder`, whole or not at all. Raises TakenError when there is one."""
        path = Path(folder) / STATS
        make_folder(path.parent)
        claim = Claim(path)
        try:
            claim.publish(self.encode(run, complete=complete))
        except BaseException:
            claim.release()
            raise
        return path


def _merge(a: list[float], b: list[float]) -> list[float]:
    """Moments of two disjoint samples together. Source: Chan, Golub & LeVeque 1979, the pairwise update."""
    count = a[0] + b[0]
    if not count:
        return [0.0, 0.0, 0.0, math.inf, -math.inf, 0.0, a[6] + b[6]]
    delta = b[1] - a[1]
    return [
        count,
        a[1] + delta * b[0] / count,
        a[2] + b[2] + delta**2 * a[0] * b[0] / count,
        min(a[3], b[3]),
        max(a[4], b[4]),
        a[5] + b[5],
        a[6] + b[6],
    ]
