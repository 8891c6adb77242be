"""What was run and captured? The run, its weights, recipe and environment, and one tensor of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.records.places import site_name


@dataclass(frozen=True)
class Environment:
    """What ran it: enough to tell whether two traces may be compared bit by bit."""

    python: str
    torch: str
    triton: str | None
    transformers: str | None
    platform: str
    cpu_capability: str
    threads: int
    device: str
    interpreted: bool


@dataclass(frozen=True)
class Recipe:
    """The precision recipe of a forward pass: formats of weights, activations, cache, and where it accumulates.

    name: the recipe's short name (`fp32`, `bf16`, `fp8_block`).
    """

    name: str
    weights: str
    activations: str
    compute: str
    accumulate: str
    kv_cache: str
    residual: str


@dataclass(frozen=True)
class Lineage:
    """Which weights: the hash of the root checkpoint and the conversions that led from it to these files."""

    root: str
    conversions: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """For a message: the first twelve digits of the hash, and the conversions."""
        kind, _, digits = self.root.rpartition(":")
        head = f"{kind}:{digits[:12]}" if kind else digits[:12]
        return ", ".join([head, *self.conversions])


@dataclass(frozen=True)
class Rows:
    """Which token each of the N leading rows of a capture is.

    request: [N] int32, index into the run's requests. position: [N] int64, absolute position in that request.
    slot, expert: [N] int32 for expert rows (one row per (token, slot) pair), None for token rows.
    """

    request: NDArray[np.int32]
    position: NDArray[np.int64]
    slot: NDArray[np.int32] | None = None
    expert: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.position)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Rows:
        """The rows at `index` (positions or a mask), in that order."""
        return Rows(
            self.request[index],
            self.position[index],
            None if self.slot is None else self.slot[index],
            None if self.expert is None else self.expert[index],
        )


@dataclass(frozen=True)
class Capture:
    """One tensor that a probe saw, without its payload.

    number: unique in its trace, in order of capture. layer: absolute, None outside the layers.
    phase: `prefill` or `decode`; step: 0 for prefill, 1, 2, ... for the decode steps; chunk: prefill chunk number.
    axes: axis letters of parity.stages; dtype: as torch spells it, without `torch.`; shape: leading axis is `rows`.
    geometry: where a kernel has one: `tile_m`, `expert_offsets`. launch: `grid`, `block`, `covers`, `requires`.
    placement: global shape, offset and rank of a shard. reduction: `complete` or `partial`. basis: of latent attention
    or rope layout. model: `target` or `draft`. variant: the kernel path that produced it.
    """

    number: int
    stage: str
    layer: int | None
    phase: str
    step: int
    chunk: int
    axes: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    rows: Rows
    geometry: Mapping[str, Any] = field(default_factory=dict)
    launch: Mapping[str, Any] = field(default_factory=dict)
    placement: Mapping[str, Any] | None = None
    reduction: str = "complete"
    basis: str | None = None
    model: str = "target"
    variant: str | None = None

    @property
    def name(self) -> str:
        """`L02.moe.gate`, or the bare stage outside the layers."""
        return site_name(self.layer, self.stage)


@dataclass(frozen=True)
class Run:
    """What a trace is a trace of.

    requests: token ids by request, in the order that `Rows.request` indexes; request_names likewise.
    declared: every (layer, stage) the runner promised to capture under the filter in force.
    hyper: effective hyper-parameters of the model as it ran. flags: settings that change behaviour.
    """

    family: str
    model: str
    layers: int
    request_names: tuple[str, ...]
    requests: tuple[tuple[int, ...], ...]
    recipe: Recipe
    lineage: Lineage
    environment: Environment
    declared: tuple[tuple[int | None, str], ...] = ()
    hyper: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unobservable(self) -> frozenset[str]:
        """Stages that the engine says it cannot show, whatever is asked."""
        return frozenset(self.hidden)

    @property
    def hidden(self) -> dict[str, str]:
        """The same with the engine's reason: `flags["unobservable"]`."""
        said = self.flags.get("unobservable")
        return {str(name): str(why) for name, why in said.items()} if isinstance(said, Mapping) else {}
