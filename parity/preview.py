"""What would a runner be, told from a model's configuration and file headers before anything is loaded?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from parity.errors import RunnerError, UsageError
from parity.registry import find_opener, fit_options
from parity.stages import AXES, term
from parity.stages import family as family_named


@dataclass(frozen=True)
class RunnerPreview:
    """What a runner would be, told before it is opened.

    axes: size of each axis letter of the stages' tensors but for the rows (T, R). stages: what can be observed, in the
    family's order; a stage of the family that is not among them cannot. dtypes: of each stage's payload, by stage, as
    records spell them. parameters: elements of all weights; weight_bytes: memory they take once loaded.
    device: where it computes. flops: floating-point operations a second it reaches, where that is known of the runner
    and not of the machine (an interpreter); None: to be measured on this one. layer_seconds: what each layer of each
    step costs besides, whatever its rows.
    expert_line_bytes: what a capture of an expert stage adds to a trace's manifest besides its rows (launch, geometry).
    """

    name: str
    family: str
    recipe: str
    layers: int
    axes: Mapping[str, int]
    stages: tuple[str, ...]
    dtypes: Mapping[str, str]
    vocab: int
    max_positions: int
    parameters: int
    weight_bytes: int
    device: str = "cpu"
    flops: float | None = None
    layer_seconds: float = 0.0
    expert_line_bytes: int = 0


def preview_runner(spec: str, **options: Any) -> RunnerPreview:
    """What runner `NAME:MODEL` would be, from the model's configuration and file headers alone; no weight is loaded.

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


@dataclass(frozen=True)
class StageEntry:
    """A stage of a runner: its axes, what it reads (state: of earlier tokens), what it is, whether it can be seen."""

    stage: str
    axes: tuple[str, ...]
    inputs: tuple[str, ...]
    state: tuple[str, ...]
    about: str
    dtype: str | None
    observable: bool


@dataclass(frozen=True)
class StageListing:
    """The stages of a model family, or of a runner on a model. sizes: of the axis letters, where they are known;
    letters: what they stand for."""

    title: str
    family: str
    layers: int | None
    letters: Mapping[str, str]
    sizes: Mapping[str, int]
    stages: tuple[StageEntry, ...]


def list_stages(
    *, runner: str | None = None, model: str | None = None, family: str | None = None, options: Any = None
) -> StageListing:
    """The stages of `family`, or of runner `runner` on the folder `model` (read as `preview_runner` does).

    Raises UsageError unless it is told either a family or both a runner and a model.
    """
    if (family is None) == (runner is None) or (runner is None) != (model is None):
        raise UsageError(
            place="stages",
            expected="a runner and its model, or a family",
            found=f"runner {runner}, model {model}, family {family}",
            next_step="For instance: --runner triton --model fixtures/models/moe-tiny, or --family qwen3_moe.",
        )
    preview = None if runner is None else preview_runner(f"{runner}:{model}", **(options or {}))
    graph = family_named(str(family) if preview is None else preview.family)
    entries = []
    for _, stage in graph.sites(1):
        about = term(stage.name).about
        seen = preview is None or stage.name in preview.stages
        dtype = preview.dtypes.get(stage.name) if preview is not None else None
        entries.append(StageEntry(stage.name, stage.axes, stage.inputs, stage.state, about, dtype, seen))
    used = {letter for entry in entries for letter in entry.axes}
    title = f"Family {graph.name}"
    if preview is not None:
        title = f"Runner {runner} on {model}: family {graph.name}, {preview.layers} layers, recipe {preview.recipe}"
    return StageListing(
        title=title,
        family=graph.name,
        layers=None if preview is None else preview.layers,
        letters={letter: about for letter, about in AXES.items() if letter in used},
        sizes={} if preview is None else {k: size for k, size in preview.axes.items() if k in used},
        stages=tuple(entries),
    )
