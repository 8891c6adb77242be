"""Which weight does the oracle's projection use? Given, or solved from its input and output.

A projection y = x W^T of more rows than inputs determines W: what a fault in the weight does can then be computed from
tensors that were captured, without a checkpoint.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import torch

from parity.fingerprint.field import ErrorField

ROWS_PER_INPUT = 1.25
"""Rows wanted for each input column; near 1 the solution's error grows without bound (Marchenko & Pastur 1967: the
smallest singular value of a random [T, K] is about sqrt(T) - sqrt(K))."""

FITS = 1e-2
"""Relative residual up to which the oracle counts as a linear map of its input; bf16 rounds to 4e-3."""

RIDGE = 1e-7
"""Relative to the largest eigenvalue of x^T x: fp32 products leave 6e-8 of it as noise."""


@dataclass(frozen=True)
class Projection:
    """Rows of one projection: input [n, K], rows (index into the field's) and the oracle's weight [N, K], fp32."""

    expert: int | None
    rows: torch.Tensor
    input: torch.Tensor
    weight: torch.Tensor


_KNOWN: weakref.WeakKeyDictionary[ErrorField, list[Projection]] = weakref.WeakKeyDictionary()


def projections(field: ErrorField) -> list[Projection]:
    """The projection of the field, one for each expert of expert rows; empty where the stage is no linear map of its
    one floating input, or where rows are too few and `related` holds no `weight`."""
    if field not in _KNOWN:
        _KNOWN[field] = _solve(field)
    return _KNOWN[field]


def _solve(field: ErrorField) -> list[Projection]:
    entered = [t for t in field.inputs.values() if t.is_floating_point()]
    if len(entered) != 1 or entered[0].shape[0] != field.tokens or entered[0].numel() == 0:
        return []
    wide = torch.nan_to_num(entered[0].detach().to("cpu", torch.float32), 0.0, 0.0, 0.0)
    per_row = field.lead == 2 and wide.ndim >= 2 and wide.shape[1] == field.slots and wide.ndim > 2
    rows = wide.reshape(field.rows, -1) if per_row else wide.reshape(field.tokens, -1)
    experts = field.row_expert
    given = field.related.get("weight")
    # A recipe's emulation quantizes the input: exact arithmetic alone is linear in it.
    exact = field.y if field.exact is None else field.beside(field.exact)
    if exact is None:
        return []
    found = []
    for expert in [None] if experts is None else np.unique(experts[experts >= 0]).tolist():
        at = torch.arange(field.rows) if expert is None else torch.from_numpy(np.flatnonzero(experts == expert))
        x = rows[at] if per_row or field.lead == 1 else rows[at // field.slots]
        y = exact[at]
        weight = _given(given, expert, x.shape[1], field.width)
        if weight is None:
            weight = _solved(x, y)
        if weight is not None and float((y - x @ weight.T).square().sum()) <= FITS**2 * float(y.square().sum()):
            found.append(Projection(expert, at, x, weight))
    return found


def _given(weight: torch.Tensor | None, expert: int | None, inputs: int, outputs: int) -> torch.Tensor | None:
    if weight is None:
        return None
    one = weight[expert] if weight.ndim == 3 and expert is not None and expert < len(weight) else weight
    return one.to(torch.float32) if tuple(one.shape) == (outputs, inputs) else None


def _solved(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor | None:
    if len(x) < ROWS_PER_INPUT * x.shape[1] or not bool(y.any()):
        return None
    gram = (x.T @ x).double()
    values = torch.linalg.eigvalsh(gram) if x.shape[1] <= 64 else None
    top = float(values[-1]) if values is not None else float(gram.diagonal().sum())
    gram.diagonal().add_(RIDGE * max(top, 1e-300))
    factor, info = torch.linalg.cholesky_ex(gram)
    return None if int(info) else torch.cholesky_solve((x.T @ y).double(), factor).T.float()
