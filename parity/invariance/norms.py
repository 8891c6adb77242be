"""Was a norm applied? Its rows have unit root mean square before the weight, which the rows themselves give away."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from parity.align import Aligned, align
from parity.invariance.rules import Breach, unit, unproven
from parity.trace import Trace

LEAST_ROWS = 8
"""Rows that a weight is estimated from: a median of fewer is no median."""


def layer_norms(trace: Trace, layer: int, hyper: dict) -> Iterator[Breach | None]:
    """attn.norm and mlp.norm of every row: its residual over its root mean square, times one weight for all rows."""
    before = (None, "embed.out") if layer == 0 else (layer - 1, "resid.out")
    sites = [(*before, layer, "attn.norm"), (layer, "resid.mid", layer, "mlp.norm")]
    if layer == trace.run.layers - 1:
        sites.append((layer, "resid.out", None, "final_norm"))
    for at, source, where, stage in sites:
        yield from _norms(trace, (at, source), (where, stage), hyper)


def head_norms(trace: Trace, layer: int, hyper: dict) -> Iterator[Breach | None]:
    """attn.q_norm and attn.k_norm: the same for each head of each row, one weight for all heads."""
    for name in ("q", "k"):
        yield from _norms(trace, (layer, f"attn.{name}"), (layer, f"attn.{name}_norm"), hyper)


def _norms(
    trace: Trace, source: tuple[int | None, str], site: tuple[int | None, str], hyper: dict
) -> Iterator[Breach | None]:
    for number in range(len(trace.run.request_names)):
        x, y = (align(trace, stage, at, number) for at, stage in (source, site))
        if x is None or y is None or len(x.position) != len(y.position):
            continue
        vectors = x.tensor.reshape(-1, x.tensor.shape[-1])
        if len(vectors) < LEAST_ROWS:
            continue
        over = unit_rows(vectors, y.tensor.reshape(-1, y.tensor.shape[-1]), eps=float(hyper.get("rms_eps", 0.0)))
        yield _breach(y, over)


def unit_rows(x: torch.Tensor, y: torch.Tensor, *, eps: float) -> torch.Tensor:
    """How far each row of y [N, K] is from rmsnorm(x) [N, K] under the weight that most rows agree on, over its bound.

    The weight of a column is the median over rows of y / (x / rms(x)). Where the norm was applied each such quotient
    lies within 2 u of the weight (one rounding of the result; HF rounds before the weight too), so does their median,
    and a row lies within 4 u of x / rms(x) times it: rel_l2, with the unit roundoff u of y's dtype.
    Rows of zeros and columns that are zero throughout say nothing. Returns [N].
    """
    wide, got = x.double(), y.double()
    unity = wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)
    quotient = torch.where(unity == 0, torch.nan, got / unity)
    weight = quotient.nanmedian(0).values.nan_to_num(nan=0.0)
    expected = unity * weight
    far = (got - expected).norm(dim=1) / expected.norm(dim=1)
    far = torch.where(expected.norm(dim=1) == 0, 0.0, far)
    return far / (4 * unit(y.dtype))


def _breach(one: Aligned, over: torch.Tensor) -> Breach | None:
    rows = unproven(over).reshape(len(one.position), -1).amax(1)
    return Breach.of(one, rows, f"{one.stage} has unit rows before its weight")
