"""What the lab asks of anything that turns token ids into a trace: the engine under test and the oracle alike."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch

from parity.errors import RunnerError, UsageError
from parity.records import Capture, Environment, Lineage, Recipe, Rows
from parity.trace import Trace


@dataclass(frozen=True)
class Request:
    """One sequence to run: its name, its token ids, and how many of them are already in the cache."""

    name: str
    ids: tuple[int, ...]
    cached: int = 0


@dataclass(frozen=True)
class Schedule:
    """How the requests are fed: prefill chunk length (None: all at once), and how many ids at the end of each request
    are fed one by one as decode steps instead."""

    chunk: int | None = None
    decode: int = 0


@dataclass(frozen=True)
class CapturePlan:
    """What to capture. Empty `layers` or `stages` mean all; stages are shell-style patterns (`moe.*`).

    tokens: `all`, `last` (the last position of each request's prompt, and each decode step), or `a:b` in absolute
    positions. mode: `tensor`, or `stats` for statistics only. out: a folder for the trace; None keeps it in memory.
    """

    layers: tuple[int, ...] = ()
    stages: tuple[str, ...] = ()
    tokens: str = "all"
    mode: str = "tensor"
    out: Path | None = None


@dataclass(frozen=True)
class Graft:
    """A tensor to put into a forward pass in place of the one computed there.

    Rows are matched by (request, absolute position) and, for expert rows, slot; rows not named keep their value.
    columns: ranges [first, stop) of the row as it lies in memory (all trailing axes flattened) that are replaced; the
        others keep their value too. None replaces whole rows. `tensor` has whole rows either way.
    """

    layer: int | None
    stage: str
    tensor: torch.Tensor
    rows: Rows
    columns: tuple[tuple[int, int], ...] | None = None


class ComputedGraft(Protocol):
    """A graft whose tensor follows from what the same forward pass has computed so far.

    needs: the sites it reads. history: whether it reads them at earlier positions too (attention does), or only at the
    rows of the step that is running.
    """

    @property
    def layer(self) -> int | None: ...

    @property
    def stage(self) -> str: ...

    @property
    def needs(self) -> tuple[tuple[int | None, str], ...]: ...

    @property
    def history(self) -> bool: ...

    def compute(self, own: Capture, tensor: torch.Tensor, seen: Trace) -> torch.Tensor:
        """What goes on in place of `tensor`, the engine's own value there: same shape and dtype, same rows as `own`.

        seen: captures of `needs`, and of this site at earlier steps when `history`; grafted values where they were.
        """
        ...


@dataclass(frozen=True)
class Generation:
    """A greedy continuation: the new ids, and their text when the runner has a tokenizer."""

    ids: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True)
class RunnerInfo:
    """What a runner is: family, effective hyper-parameters, recipe, lineage, the stages it can show, its variants.

    inner: stages that live inside a fused kernel: they can be shown, and a graft cannot replace them.
    """

    name: str
    family: str
    layers: int
    hyper: Mapping[str, Any]
    recipe: Recipe
    lineage: Lineage
    environment: Environment
    stages: tuple[str, ...]
    can: frozenset[str]
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inner: frozenset[str] = frozenset()


class Runner(Protocol):
    """Anything that turns token ids into a trace.

    `describe().can` says which of `forward`, `generate`, `graft`, `replay`, `chunk` it supports; calling what it cannot
    do raises RunnerError, and an experiment that needs it is reported as not run.
    """

    def describe(self) -> RunnerInfo: ...

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = ...,
        capture: CapturePlan | None = ...,
        graft: Sequence[Graft | ComputedGraft] = ...,
    ) -> Trace:
        """Run the requests, teacher-forced, and return what the probes saw (nothing when `capture` is None)."""
        ...

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = ...,
        graft: Sequence[Graft | ComputedGraft] = ...,
    ) -> Generation:
        """Continue one request greedily, prompt and new tokens under the grafts."""
        ...


class Replayer(Protocol):
    """A runner that can compute one stage from given inputs."""

    def replay(
        self, stage: str, layer: int | None, inputs: Mapping[str, torch.Tensor], *, positions: torch.Tensor, recipe: str
    ) -> torch.Tensor:
        """Compute one stage from its inputs, alone.

        inputs: by the input names of the family's graph (`resid.in` included), rows of ONE request at positions
            0..T-1 in order: [T, ...] for token rows, [T, S, ...] for expert rows in (token, slot) order.
        positions: [T] int64.
        recipe: `fp32` for exact arithmetic on these inputs, or the name of a precision recipe to emulate.
        Returns the stage's tensor, [T, ...] or [T, S, ...], in fp32 for `fp32`, else in the recipe's dtype.
        """
        ...


def open_runner(spec: str, **options: Any) -> Any:
    """Open runner `NAME:MODEL`; NAME is an entry point of the group `parity.runners`, or `package.module.function`.

    The function gets the model as a string and the options, and returns a Runner.
    Raises UsageError for a spec of another form, RunnerError for an unknown name, listing the known ones.
    """
    name, colon, model = spec.partition(":")
    if not colon or not name or not model:
        raise UsageError(
            place="runner specification",
            expected="NAME:MODEL, for instance hf:fixtures/models/moe-tiny",
            found=repr(spec),
            next_step="Known names: " + ", ".join(sorted(registered("parity.runners"))) + ".",
        )
    module, dot, function = name.rpartition(".")
    opener = getattr(_import(module, name), function, None) if dot else load(name, group="parity.runners")
    if opener is None:
        raise RunnerError(
            place=f"runner {name}",
            expected=f"a function {function} in module {module}",
            found="none",
            next_step="Correct the name; the function takes the model and returns a Runner.",
        )
    return opener(model, **options)


def registered(group: str) -> dict[str, str]:
    """Entry points of a group, name to `module:attribute`: the installed ones and those of this checkout."""
    found = {point.name: point.value for point in entry_points(group=group)}
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if pyproject.is_file():
        declared = tomllib.loads(pyproject.read_text())["project"].get("entry-points", {}).get(group, {})
        found = {**declared, **found}
    return found


def load(name: str, *, group: str) -> Callable[..., Any] | Any:
    """Import what entry point `name` of `group` refers to; raises RunnerError with the known names otherwise."""
    known = registered(group)
    if name not in known:
        raise RunnerError(
            place=f"entry-point group {group}",
            expected="one of " + (", ".join(sorted(known)) or "none registered"),
            found=repr(name),
            next_step="Install the package that provides it, or correct the name.",
        )
    module, _, attribute = known[name].partition(":")
    target = _import(module, f"{name} of {group}")
    return getattr(target, attribute) if attribute else target


def _import(module: str, what: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise RunnerError(
            place=what,
            expected=f"module {module} to import",
            found=str(error),
            next_step="Install the extra that brings it (hf, triton), or put its folder on PYTHONPATH.",
        ) from error
