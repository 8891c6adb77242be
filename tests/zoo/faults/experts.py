"""Faults that the lab was not made on: two columns of an expert exchanged, a residual lost, a router's temperature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parity.faults import Draw, Fault, where
from parity.fingerprint.causes import COLUMN_SEGMENT, CONSTANT_RATIO, MISSING_RESIDUAL
from parity.records import Site, Slice


def down_rows_swapped(layer: int, expert: int) -> Fault:
    """Rows 3 and 77 of an expert's down projection change places: two columns of its output do."""

    def exchange(name: str, weight: torch.Tensor) -> torch.Tensor:
        order = torch.arange(len(weight))
        order[[3, 77]] = order[[77, 3]]
        bits = weight.view(torch.uint8) if weight.element_size() == 1 else weight  # torch moves float8 only as bits
        return bits[order].view(weight.dtype)

    return Fault(
        name="down_rows_swapped",
        family="qwen3_moe",
        summary="Two rows of one expert's down projection lie in each other's place.",
        truth=Site((layer,), "moe.down", Slice(experts=(expert,))),
        cause=COLUMN_SEGMENT,
        weights={f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight": exchange},
        instances=swapped_elsewhere,
    )


def swapped_elsewhere(seed: int, hyper: Mapping[str, Any]) -> Fault:
    draw = Draw("down_rows_swapped", seed, hyper)
    return down_rows_swapped(draw.layer(), draw.expert())


def residual_dropped(layer: int) -> Fault:
    """The sum before the experts of one layer is the attention's output alone."""

    def wrap(op: Any) -> Any:
        def add_rmsnorm(x: Any, residual: Any, *rest: Any, **more: Any) -> Any:
            # None: a graft has put the sum itself there.
            if residual is not None and (where().role, where().layer) == ("mlp.norm", layer):
                residual = torch.zeros_like(residual)
            return op(x, residual, *rest, **more)

        return add_rmsnorm

    return Fault(
        name="residual_dropped",
        family="qwen3_moe",
        summary="One layer does not add the residual after attention.",
        truth=Site((layer,), "resid.mid"),
        cause=MISSING_RESIDUAL,
        op="add_rmsnorm",
        wrap=wrap,
        instances=lambda seed, hyper: residual_dropped(Draw("residual_dropped", seed, hyper).layer()),
    )


def router_temperature(layer: int, factor: float) -> Fault:
    """The router's scores are divided by a temperature before softmax."""

    def wrap(op: Any) -> Any:
        def router(x: Any, weight: torch.Tensor, **rest: Any) -> Any:
            return op(x, weight * factor if where().layer == layer else weight, **rest)

        return router

    return Fault(
        name="router_temperature",
        family="qwen3_moe",
        summary="One layer's router is 10 % too flat.",
        truth=Site((layer,), "moe.router_logits"),
        cause=CONSTANT_RATIO,
        details={"ratio": factor},
        op="router",
        wrap=wrap,
        instances=flatter_elsewhere,
    )


def flatter_elsewhere(seed: int, hyper: Mapping[str, Any]) -> Fault:
    draw = Draw("router_temperature", seed, hyper)
    return router_temperature(draw.layer(), draw.strength(0.8, 0.95))


FAULTS = [down_rows_swapped(2, 4), residual_dropped(1), router_temperature(2, 0.9)]
