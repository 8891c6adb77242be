"""Which captures does a plan ask for? Parses plans and the environment, and filters sites and rows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parity.errors import UsageError
from parity.records import Rows
from parity.runner import CapturePlan
from parity.stages import VOCABULARY, matches

VARIABLES = ("PARITY_CAPTURE", "PARITY_LAYERS", "PARITY_STAGES", "PARITY_TOKENS", "PARITY_MODE")
_RANGE = re.compile(r"(\d*):(\d*)")


@dataclass(frozen=True)
class Tokens:
    """Which rows are kept: all, only the last position of each request, or absolute positions first <= p < stop."""

    last: bool = False
    first: int = 0
    stop: int | None = None

    @property
    def everything(self) -> bool:
        return not self.last and self.first == 0 and self.stop is None

    def keep(self, rows: Rows, *, phase: str, last_position: Sequence[int] | None) -> NDArray[np.bool_] | None:
        """[N] mask of the rows to keep; None for all of them.

        last_position: by request, the last absolute position of its prompt. With `last` every row of a decode step
        stays. The end of a chunk is not the end of a prompt: nothing here looks at where a row stands in the tensor.
        """
        if self.everything or (self.last and phase == "decode"):
            return None
        if self.last:
            ends = np.asarray(last_position, np.int64)
            return rows.position == ends[rows.request]
        kept = rows.position >= self.first
        return kept if self.stop is None else kept & (rows.position < self.stop)


def parse_tokens(text: str, *, place: str = "CapturePlan.tokens") -> Tokens:
    """`all`, `last` or `a:b` (absolute positions, either end may be left out); UsageError for anything else."""
    if text == "all":
        return Tokens()
    if text == "last":
        return Tokens(last=True)
    found = _RANGE.fullmatch(text)
    if found and text != ":":
        first, stop = int(found[1] or 0), int(found[2]) if found[2] else None
        if stop is None or first < stop:
            return Tokens(first=first, stop=stop)
    raise UsageError(
        place=place,
        expected="all, last, or a:b with absolute positions a < b",
        found=repr(text),
        next_step="For the first 128 tokens write 0:128.",
    )


def check_plan(plan: CapturePlan, *, layers: int | None = None) -> Tokens:
    """Refuse a plan that cannot capture what it names; returns its parsed tokens.

    layers: number of layers of the model, where it is known. Raises UsageError for a pattern that fits no stage of the
    vocabulary, a layer that the model does not have, an unknown mode, or nonsense in tokens.
    """
    for pattern in plan.stages:
        if not any(matches(name, (pattern,)) for name in VOCABULARY):
            close = get_close_matches(pattern, VOCABULARY, n=3)
            raise UsageError(
                place="CapturePlan.stages",
                expected="patterns that fit a stage, such as moe.* or attn.q",
                found=repr(pattern),
                next_step=f"Did you mean {', '.join(close)}?" if close else "Stages: " + ", ".join(VOCABULARY) + ".",
            )
    for layer in plan.layers:
        if layer < 0 or (layers is not None and layer >= layers):
            raise UsageError(
                place="CapturePlan.layers",
                expected="layers from 0" + ("" if layers is None else f" to {layers - 1}"),
                found=str(layer),
                next_step="Layer indices are absolute, also in a truncated model.",
            )
    if plan.mode not in ("tensor", "stats"):
        raise UsageError(
            place="CapturePlan.mode",
            expected="tensor or stats",
            found=repr(plan.mode),
            next_step="`stats` keeps numbers only; `tensor` keeps the tensors.",
        )
    return parse_tokens(plan.tokens)


def admits(plan: CapturePlan, layer: int | None, stage: str) -> bool:
    """True when the plan asks for `stage` of `layer`.

    Under a filter of layers, a stage outside the layers (`logits`) is kept only if a pattern names it in full.
    """
    if not matches(stage, plan.stages):
        return False
    if not plan.layers:
        return True
    return stage in plan.stages if layer is None else layer in plan.layers


def plan_from_environment(environment: Mapping[str, str] | None = None) -> CapturePlan | None:
    """The plan that PARITY_CAPTURE and its companions ask for; None when PARITY_CAPTURE is not set or empty.

    PARITY_CAPTURE=dir, PARITY_LAYERS=0,15,29, PARITY_STAGES=moe.*,attn.q, PARITY_TOKENS=last|all|a:b,
    PARITY_MODE=tensor|stats. Raises UsageError naming the variable for a value that makes no sense, and for a
    misspelt variable (PARITY_LAYER), which would otherwise silently filter nothing.
    """
    environment = os.environ if environment is None else environment
    folder = environment.get("PARITY_CAPTURE", "")
    if not folder:
        return None
    for name in environment:
        if name not in VARIABLES and name.startswith("PARITY_"):
            close = get_close_matches(name, VARIABLES, n=1, cutoff=0.85)
            if close:
                raise UsageError(
                    place=f"environment variable {name}",
                    expected="one of " + ", ".join(VARIABLES),
                    found=name,
                    next_step=f"Did you mean {close[0]}? Nothing reads {name}.",
                )
    layers = []
    for word in _words(environment, "PARITY_LAYERS"):
        if not word.isdecimal():
            raise UsageError(
                place="environment variable PARITY_LAYERS",
                expected="layer numbers, such as 0,15,29",
                found=repr(environment["PARITY_LAYERS"]),
                next_step="Leave it unset for all layers.",
            )
        layers.append(int(word))
    plan = CapturePlan(
        layers=tuple(layers),
        stages=tuple(_words(environment, "PARITY_STAGES")),
        tokens=environment.get("PARITY_TOKENS") or "all",
        mode=environment.get("PARITY_MODE") or "tensor",
        out=Path(folder),
    )
    try:
        check_plan(plan)
    except UsageError as error:
        variable = "environment variable PARITY_" + error.place.rpartition(".")[2].upper()
        raise UsageError(
            place=variable, expected=error.expected, found=error.found, next_step=error.next_step
        ) from None
    return plan


def _words(environment: Mapping[str, str], name: str) -> list[str]:
    text = environment.get(name, "")
    words = [word.strip() for word in text.split(",")] if text else []
    if not all(words):
        raise UsageError(
            place=f"environment variable {name}",
            expected="words separated by single commas",
            found=repr(text),
            next_step="Remove the empty entry.",
        )
    return words
