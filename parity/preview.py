"""What would a runner be, told from a model's configuration and file headers before anything is loaded?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from parity.errors import RunnerError
from parity.registry import find_opener, fit_options


@dataclass(frozen=True)
class RunnerPreview:
    """What a runner would be, told before it is opened.

    axes: size of each axis letter of the stages' tensors, but for the rows (T, R). dtypes: of each stage's payload, by
    stage, as records spell them. stages: what can be observed, in the family's order; a stage that is not there cannot.
    parameters: elements of all weights. active: those of them that one token is multiplied with. weight_bytes: memory
    they take once loaded.
    device: where it computes. flops: floating-point operations a second it reaches, where that is known of the runner
    rather than of the machine (an interpreter); None: to be measured. line_bytes: what one capture of an expert stage
    adds to a trace's manifest beside what every capture does (a launch record).
    """

    name: str
    family: str
    layers: int
    axes: Mapping[str, int]
    stages: tuple[str, ...]
    dtypes: Mapping[str, str]
    recipe: str
    vocab: int
    max_positions: int
    parameters: int
    active: int
    weight_bytes: int
    device: str = "cpu"
    flops: float | None = None
    line_bytes: int = 0
    rows_by_expert: bool = True


def preview_runner(spec: str, **options: Any) -> RunnerPreview:
    """What runner `NAME:MODEL` would be, from the model's configuration and file headers alone; no weight is read.

    The runner's module says so in a function `preview_runner` beside the one that opens it, with the same arguments.
    Raises what `open_runner` raises, and RunnerError for a runner that has no such function.
    """
    opener, model = find_opener(spec)
    name = spec.partition(":")[0]
    preview = getattr(import_module(opener.__module__), "preview_runner", None)
    if preview is None:
        raise RunnerError(
            place=f"runner {name}",
            expected=f"a function preview_runner beside {opener.__module__}.{opener.__name__}",
            found="none",
            next_step="This runner cannot be described before it is opened: open it, or name a family instead.",
        )
    return preview(model, **fit_options(opener, options, place=f"runner {name}"))
