"""Which weight does the oracle's projection use? Given, or solved from its input and output.

A projection y = x W^T of more rows than inputs determines W: what a fault in the weight does can then be computed from
tensors that were captured, without a checkpoint.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace

import numpy as np
import torch

from parity.fingerprint.field import ErrorField
from parity.fingerprint.sums import squared_distance, squared_norm

ROWS_PER_INPUT = 1.25
"""Rows wanted for each input column; near 1 the solution's error grows without bound (Marchenko & Pastur 1967: the
smallest singular value of a random [T, K] is about sqrt(T) - sqrt(K))."""

FITS = 1e-2
"""Relative residual up to which the oracle counts as a linear map of its input; bf16 rounds to 4e-3."""

RIDGE = 1e-7
"""Relative to the largest eigenvalue of x^T x: fp32 products leave 6e-8 of it as noise."""

MIXTURES = 64
"""Random mixtures of output columns (signs, each column in each) that stand for all of them before a weight is solved:
a linear map maps to every mixture, and energies of n mixtures are those of all columns to sqrt(2/n) at the worst."""

OUT_OF_REACH = 0.55
"""Share of the error's energy beyond every weight at which none is worth solving: a pattern must explain half of it
(LEAST_SHARE), and a twentieth is allowed for the mixtures."""


@dataclass(frozen=True)
class Projection:
    """Rows of one projection: input [n, K], rows (index into the field's) and the oracle's weight [N, K], fp32."""

    expert: int | None
    rows: torch.Tensor
    input: torch.Tensor
    weight: torch.Tensor

    def fewer(self, count: int) -> Projection:
        """The same of evenly spread rows, at most `count`."""
        if len(self.rows) <= count:
            return self
        pick = torch.linspace(0, len(self.rows) - 1, count).round().long()
        return replace(self, rows=self.rows[pick], input=self.input[pick])


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
        if expert is None and len(rows) == field.rows:
            x, y = rows, exact  # all of them: no copy
        else:
            x, y = rows[at] if per_row or field.lead == 1 else rows[at // field.slots], exact[at]
        weight = _given(given, expert, x.shape[1], field.width)
        if weight is None:
            weight = _solved(x, y, sut=field.x if expert is None else None, error=field.d)
        elif squared_distance(y, x @ weight.T) > FITS**2 * squared_norm(y):
            weight = None
        if weight is not None:
            found.append(Projection(expert, at, x, weight))
    return found


def _given(weight: torch.Tensor | None, expert: int | None, inputs: int, outputs: int) -> torch.Tensor | None:
    if weight is None:
        return None
    one = weight[expert] if weight.ndim == 3 and expert is not None and expert < len(weight) else weight
    return one.to(torch.float32) if tuple(one.shape) == (outputs, inputs) else None


def _solved(x: torch.Tensor, y: torch.Tensor, *, sut: torch.Tensor | None, error: torch.Tensor) -> torch.Tensor | None:
    """The weight [N, K] that makes y of x; None where rows are too few, y is no linear map of x, or no weight at all
    explains the error of `sut` (None: not asked)."""
    if len(x) < ROWS_PER_INPUT * x.shape[1] or not bool(y.any()):
        return None
    gram = (x.T @ x).double()
    values = torch.linalg.eigvalsh(gram) if x.shape[1] <= 64 else None
    top = float(values[-1]) if values is not None else float(gram.diagonal().sum())
    gram.diagonal().add_(RIDGE * max(top, 1e-300))
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info):
        return None
    some = torch.randint(0, 2, (y.shape[1], MIXTURES), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    mixed = y @ some
    if squared_norm(_beyond(x, mixed, factor)) > FITS**2 * squared_norm(mixed):
        return None
    if sut is not None:
        # What is explained must be most of the error and of the SUT itself (parity.fingerprint.evidence).
        least = min(squared_norm(error @ some), squared_norm(sut @ some))
        if squared_norm(_beyond(x, sut @ some, factor)) > OUT_OF_REACH * least:
            return None
    if y.shape[1] > len(x):  # fewer columns to solve for than outputs
        return (torch.cholesky_solve(x.T.double(), factor).float() @ y).T
    return torch.cholesky_solve((x.T @ y).double(), factor).T.float()


def _beyond(x: torch.Tensor, values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """What no weight makes of x in `values` [n, m]; factor: of x^T x."""
    return values - x @ torch.cholesky_solve((x.T @ values).double(), factor).float()
