"""Which launches made the tensor that a probe is shown? Heard where each op takes its grid, told with the capture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from parity.probes import Probe
from parity_kernels.launch import Launch

Place = tuple[str, int | None]

MADE_BY: dict[str, tuple[str, ...]] = {
    "attn.q_norm": ("attn.q_rope",),
    "attn.k_norm": ("attn.q_rope",),
    "attn.k_rope": ("attn.q_rope",),
    "moe.topk_ids": ("moe.router_logits",),
    "moe.topk_weights": ("moe.router_logits",),
    "moe.gate": ("moe.topk_ids", "moe.gate_up"),
    "moe.up": ("moe.topk_ids", "moe.gate_up"),
    "resid.mid": ("mlp.norm",),
}
"""Roles of the calls that a stage's rows come from, besides the one of its own name."""


ROWS = ("tokens", "rows")
"""Extents that several launches of one op share between them."""


class Launched:
    """Launches of one step, by the role and the layer of the call that made them."""

    def __init__(self, now: Callable[[], Place]) -> None:
        self._now = now
        self._found: dict[Place, list[Launch]] = {}

    def hear(self, launch: Launch) -> None:
        """Take a launch of the call in progress."""
        self._found.setdefault(self._now(), []).append(launch)

    def of(self, stage: str, layer: int | None, own: Launch | None = None) -> dict[str, Any] | None:
        """All launches behind a stage as one record, None where none is known.

        own: the launch that made it, whose extents keep their names; without it that is the last one heard, with the
        earlier ones of the same op, which made other rows of it. Extents of the others are named by their op
        (`quantize_rows.rows`).
        """
        roles = (*MADE_BY.get(stage, ()), stage)
        others = [launch for role in roles for launch in self._found.get((role, layer), ())]
        if own is None:
            if not others:
                return None
            last = others.pop()
            own = together([*(launch for launch in others if launch.op == last.op), last])
            others = [launch for launch in others if launch.op != last.op]
        covers, requires = dict(own.covers), dict(own.requires)
        for launch in others:
            covers |= {f"{launch.op}.{name}": value for name, value in launch.covers.items()}
            requires |= {f"{launch.op}.{name}": value for name, value in launch.requires.items()}
        return {"op": own.op, "grid": own.grid, "block": own.block, "covers": covers, "requires": requires}


def together(launches: Sequence[Launch]) -> Launch:
    """Launches of one op in one call as one: each made rows of its own, and reached what it covers of them.

    Extents of rows add up, what a launch covers beyond its own need left out: it makes up for no other's lack. Of any
    other extent the launch that falls shortest counts. Grid and block are the last one's.
    """
    last = launches[-1]
    if len(launches) == 1:
        return last
    covers, requires = dict(last.covers), dict(last.requires)
    for name in last.covers:
        pairs = [(one.covers[name], one.requires.get(name, one.covers[name])) for one in launches if name in one.covers]
        if name in ROWS:
            covers[name] = sum(min(pair) for pair in pairs)
            requires[name] = sum(need for _, need in pairs)
        else:
            covers[name], requires[name] = min(pairs, key=lambda pair: pair[0] - pair[1])
    return replace(last, covers=covers, requires=requires)


class TellingProbe:
    """A probe that is told, with each tensor, the launches that made it."""

    def __init__(self, probe: Probe, launched: Launched) -> None:
        self._probe, self._launched = probe, launched

    def wants(self, stage: str, layer: int | None = None) -> bool:
        return self._probe.wants(stage, layer)

    def __call__(self, stage: str, tensor: torch.Tensor, layer: int | None = None, **more: Any) -> torch.Tensor:
        more["launch"] = self._launched.of(stage, layer, more.get("launch"))
        return self._probe(stage, tensor, layer, **more)
