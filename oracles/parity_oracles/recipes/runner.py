"""What would a correct implementation of a precision recipe compute? A whole model run by the recipe's own stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.errors import UsageError
from parity.preview import RunnerPreview
from parity.records import Rows, Run
from parity.runner import Request, RunnerInfo, Schedule
from parity.stages import Stage, term
from parity_oracles.checkpoint import Checkpoint, read_checkpoint
from parity_oracles.oracle import Oracle
from parity_oracles.preview import preview
from parity_oracles.recipes.arithmetic import ORDERS, Arithmetic, Order, arithmetic
from parity_oracles.recipes.attention import QUERY_ROWS
from parity_oracles.recipes.stages import STAGES, Call
from parity_oracles.recipes.vllm import TAKES
from parity_oracles.recipes.weights import Weights

REPLAYED_ROWS = QUERY_ROWS
"""Token rows of a replayed stage computed at a time: what it needs beside its output then does not grow with the
prompt. Expert rows go expert by expert as it is; fewer of them in one product would be summed in another order."""

Cache = dict[tuple[int, str], torch.Tensor]
Values = dict[tuple[int | None, str], torch.Tensor]


class RecipeRunner(Oracle):
    """A model in the arithmetic of a recipe, by the family's stage graph: each stage from its captured inputs.

    order: which of the legitimate orders of the same arithmetic; 0 is the specification read plainly.
    hide: stages that it does not show, besides those that its recipe has inside a kernel: what an engine cannot show,
        its clean runs must not either, lest a floor judge one stage of theirs by several of the engine's.
    """

    name = "recipe"
    can = frozenset({"forward", "generate", "sample", "graft", "replay", "chunk"})

    def __init__(
        self, checkpoint: Checkpoint, *, recipe: str | None = None, order: int = 0, hide: Collection[str] = ()
    ) -> None:
        natural = checkpoint.hyper.quantization or "bf16"
        self.arithmetic: Arithmetic = arithmetic(recipe or natural)
        self.inside = self.arithmetic.inside | {term(name).name for name in hide}
        self.order_number = order
        self.order: Order = order_number(order)
        self.weights = Weights(checkpoint)
        super().__init__(checkpoint, self.arithmetic.recipe(stored_as(checkpoint, self.arithmetic)), checkpoint.hyper)

    def describe(self) -> RunnerInfo:
        """As every oracle's; what an engine of this recipe cannot show is not among its stages."""
        info = super().describe()
        return replace(info, stages=tuple(name for name in info.stages if name not in self.inside))

    def flags(self) -> dict[str, Any]:
        inside = {name: "inside a kernel, as the engine has it" for name in sorted(self.inside)}
        return {"order": self.order_number, **({"unobservable": inside} if inside else {})}

    def _run(self, requests: Sequence[Request], schedule: Schedule) -> Run:
        run = super()._run(requests, schedule)
        return replace(run, declared=tuple(site for site in run.declared if site[1] not in self.inside))

    def new_cache(self) -> Cache:
        return {}

    def step(
        self, ids: torch.Tensor, start: int, cache: Cache, probe: Any, rows: Rows, *, last_only: bool
    ) -> torch.Tensor:
        positions = torch.arange(start, start + len(ids))
        values: Values = {}
        carried: Values = {}
        for layer, stage in self.family.sites(self.hyper.layers):
            inputs = self._inputs(layer, stage, {**values, **carried} if stage.name in TAKES else values)
            if stage.name == "embed.out":
                inputs = {"ids": ids}
            for name in stage.state:
                inputs[name] = _extended(cache, layer, name, inputs[name])
            if stage.name == "logits" and last_only:
                inputs = {name: x[-1:] for name, x in inputs.items()}
            keep = stage.name in self.arithmetic.carried and not self.order.stepwise
            given = (stage.name, layer, inputs, positions, self.arithmetic, self.order)
            kept = self.compute(*given, keep=True) if keep else self.compute(*given)
            out = self.arithmetic.leave(kept) if keep else kept
            shown = out
            if probe is not None and stage.name not in self.inside:
                shown = self._shown(out, layer, stage, probe, rows, values)
            if stage.name == "resid.out":  # nothing else of a finished layer is read again
                values.clear()
                carried.clear()
            values[layer, stage.name] = shown
            if keep and shown is out:  # what was put in its place is all that there is of it
                carried[layer, stage.name] = kept
        return values[None, "logits"]

    @torch.no_grad()
    def replay(
        self, stage: str, layer: int | None, inputs: Mapping[str, torch.Tensor], *, positions: torch.Tensor, recipe: str
    ) -> torch.Tensor:
        """Compute one stage alone; see parity.runner.Replayer. The embedding's input is `ids`.

        recipe: `fp32` or `fp64` for exact arithmetic on the inputs given, `bf16` or `fp8_block` to emulate.
        """
        self.family.stage(stage)
        inside = any(node.name == stage for node in self.family.layer)
        if inside != (layer is not None) or (layer is not None and not 0 <= layer < self.hyper.layers):
            raise UsageError(
                place=f"replay of {stage}",
                expected=f"a layer 0..{self.hyper.layers - 1}" if inside else "layer None",
                found=f"layer {layer}",
                next_step="Stages outside the layers have layer None.",
            )
        kind, node = arithmetic(recipe), self.family.stage(stage)
        if len(positions) <= REPLAYED_ROWS or "moe.topk_ids" in node.inputs:
            return self.compute(stage, layer, inputs, positions, kind, self.order)
        # What a stage reads of earlier positions stays whole; every other row stands for itself.
        out: torch.Tensor | None = None
        for start in range(0, len(positions), REPLAYED_ROWS):
            rows = slice(start, start + REPLAYED_ROWS)
            here = {name: x if name in node.state else x[rows] for name, x in inputs.items()}
            part = self.compute(stage, layer, here, positions[rows], kind, self.order)
            if out is None:
                out = part.new_empty((len(positions), *part.shape[1:]))
            out[rows] = part
        assert out is not None
        return out

    def weight_of(self, stage: str, layer: int | None) -> torch.Tensor | None:
        """The weight of a linear stage, dequantized: [N, K] fp32, [E, N, K] for expert rows; of the embedding its table
        [V, D]; None for other stages."""
        return self.weights.of_stage(stage, layer)

    def compute(
        self,
        stage: str,
        layer: int | None,
        inputs: Mapping[str, torch.Tensor],
        positions: torch.Tensor,
        arithmetic: Arithmetic,
        order: Order,
        *,
        keep: bool = False,
    ) -> torch.Tensor:
        """One stage by its stage function. keep: not rounded at its end."""
        return STAGES[stage](Call(inputs, self.weights, layer, self.hyper, arithmetic, order, positions, keep))

    def _inputs(self, layer: int | None, stage: Stage, values: Values) -> dict[str, torch.Tensor]:
        layers = self.hyper.layers
        return {name: values[self.family.resolve(layer, name, layers=layers)] for name in stage.inputs}

    def _shown(
        self,
        out: torch.Tensor,
        layer: int | None,
        stage: Stage,
        probe: Any,
        rows: Rows,
        values: Values,
    ) -> torch.Tensor:
        """Pass a stage's tensor through the probe: what comes back is what the next stages read."""
        if stage.axes[0] != "R":
            return probe(stage.name, out, layer)
        ids = values[layer, "moe.topk_ids"]
        flat = out.flatten(0, 1)
        back = probe(stage.name, flat, layer, rows=expert_rows(rows, ids))
        return out if back is flat else back.view_as(out)


def expert_rows(rows: Rows, ids: torch.Tensor) -> Rows:
    """The expert rows of token rows with chosen experts `ids` [T, S], in (token, slot) order."""
    slots = ids.shape[1]
    return Rows(
        np.repeat(rows.request, slots),
        np.repeat(rows.position, slots),
        np.tile(np.arange(slots, dtype=np.int32), len(rows)),
        ids.flatten().numpy().astype(np.int32),
    )


def order_number(number: int) -> Order:
    """One of `ORDERS`; raises UsageError outside them."""
    if type(number) is not int or not 0 <= number < len(ORDERS):
        raise UsageError(
            place="order of the arithmetic",
            expected=f"0..{len(ORDERS) - 1}",
            found=repr(number),
            next_step="Order 0 is the specification read plainly; see parity_oracles/recipes/arithmetic.py.",
        )
    return ORDERS[number]


def stored_as(checkpoint: Checkpoint, arithmetic: Arithmetic) -> str:
    """What the linear weights are when this arithmetic multiplies with them, in words."""
    quantized = checkpoint.hyper.quantization is not None
    if arithmetic.linear == "fp8_block":
        return "e4m3 128x128" if quantized else "e4m3 128x128, quantized here"
    source = " dequantized from e4m3 128x128" if quantized else ""
    return ("bf16" if arithmetic.linear == "bf16" else arithmetic.name) + source


def _extended(cache: Cache, layer: int | None, name: str, new: torch.Tensor) -> torch.Tensor:
    """The cached rows of earlier steps and the new ones, [C, ...]; the cache keeps both."""
    assert layer is not None
    before = cache.get((layer, name))
    cache[layer, name] = new if before is None else torch.cat((before, new))
    return cache[layer, name]


def open_runner(model: str, *, recipe: str | None = None, order: int = 0, hide: str = "") -> RecipeRunner:
    """The emulation of `recipe` (the checkpoint's own when None) on the model folder `model`.

    recipe: `fp8_block`, `bf16`, `fp32` or `fp64`. order: see parity_oracles/recipes/arithmetic.py. hide: stages that it
    does not show, separated by commas. Raises ConfigError for a stage that does not exist.
    """
    hidden = tuple(name.strip() for name in hide.split(",") if name.strip())
    return RecipeRunner(read_checkpoint(Path(model)), recipe=recipe, order=order, hide=hidden)


def preview_runner(model: str, *, recipe: str | None = None, order: int = 0, hide: str = "") -> RunnerPreview:
    """What `open_runner` would give, from config.json and the headers; the folder is checked as it is there."""
    order_number(order)
    checkpoint = read_checkpoint(Path(model))
    kind = arithmetic(recipe or checkpoint.hyper.quantization or "bf16")
    wide = str(kind.wide).removeprefix("torch.")
    dtypes = dict.fromkeys(("moe.router_logits", "moe.topk_weights", "logits"), wide)
    dtypes |= {"": str(kind.boundary or kind.compute).removeprefix("torch."), "moe.topk_ids": "int32"}
    # Its matrices are fp32 numbers of the recipe's precision.
    return preview(checkpoint, name="recipe", recipe=kind.name, dtypes=dtypes, held=wide)
