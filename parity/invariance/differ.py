"""Where do two runs that must agree first differ? Site by site in order of computation, row by row, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.align import Aligned, align, pair_rows
from parity.metrics.bits import as_bits, bits_differ
from parity.records import Site, Slice, site_name
from parity.stages import family, term
from parity.trace import Trace

Within = Callable[[str, torch.dtype], float]
"""Largest distance (rel_l2) of a row of a stage, in its dtype, that is no difference; 0 asks for the same bits."""

View = Callable[[Aligned], Aligned]
"""Brings the turned arm's rows into the base arm's numbering."""


@dataclass(frozen=True)
class Difference:
    """One site where two runs differ.

    slice: experts, heads, positions and rows of it that differ; rows are numbers inside their expert for expert rows.
    rows, of: how many rows differ and of how many. rel_l2: the worst row's distance, infinite where one is NaN.
    by_expert: (first row, last row, rows) of each expert that differs.
    """

    layer: int | None
    stage: str
    slice: Slice
    rows: int
    of: int
    rel_l2: float
    by_expert: Mapping[int, tuple[int, int, int]]
    missing: str = ""

    @property
    def name(self) -> str:
        return site_name(self.layer, self.stage)

    @property
    def site(self) -> Site:
        return Site(() if self.layer is None else (self.layer,), self.stage, self.slice)

    def words(self) -> str:
        """`L02.moe.gate, 142 of 768 rows: experts 3 (its rows 128..269)`."""
        if self.missing:
            return f"{self.name} {self.missing}"
        parts = [f"{expert} (its rows {first}..{last})" for expert, (first, last, _) in self.by_expert.items()]
        detail = "experts " + ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
        if not parts and self.slice.positions:
            first, stop = self.slice.positions
            detail = f"positions {first}..{stop - 1}" if stop - first > 1 else f"position {first}"
        if self.slice.heads:
            detail += ", heads " + ", ".join(map(str, self.slice.heads))
        far = "not finite" if np.isinf(self.rel_l2) else f"worst row rel_l2 {self.rel_l2:.2g}"
        return f"{self.name}, {self.rows} of {self.of} rows: {detail}; {far}"


@dataclass(frozen=True)
class Agreement:
    """What two runs have in common. differences: one a site that differs, in order of computation.

    sites, rows: how much was compared. worst: the largest distance of a row anywhere, differing or not, and where.
    excused: rows of ids that differ by a near-tie, where a distance is allowed at all.
    """

    sites: int
    rows: int
    differences: tuple[Difference, ...]
    worst: float
    worst_at: str
    excused: int = 0

    @property
    def first(self) -> Difference | None:
        return self.differences[0] if self.differences else None


def exactly(stage: str, dtype: torch.dtype) -> float:
    """The same bits everywhere."""
    return 0.0


def agree(
    base: Trace,
    turned: Trace,
    *,
    within: Within = exactly,
    requests: Sequence[tuple[str, str]] | None = None,
    keep: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None,
    view: View | None = None,
    skip: Callable[[int | None, str], bool] | None = None,
) -> Agreement:
    """Compare every site that either run captured, for every pair of requests.

    requests: (name in base, name in turned); None pairs equal names. keep: mask of the positions [T] to compare.
    view: applied to the turned arm. skip: sites to leave out.
    A site or a row of the base that the other run does not have is a difference.
    """
    graph = family(base.run.family)
    order = {(layer, stage.name): n for n, (layer, stage) in enumerate(graph.sites(base.run.layers))}
    sites = {(c.layer, c.stage) for trace in (base, turned) for c in trace.captures}
    pairs = requests or [(name, name) for name in base.run.request_names if name in turned.run.request_names]
    index = [(base.run.request_names.index(a), turned.run.request_names.index(b)) for a, b in pairs]
    found, rows, worst, worst_at, excused, compared = [], 0, 0.0, "", 0, 0
    for layer, stage in sorted(sites, key=lambda site: order.get(site, len(order))):
        if skip is not None and skip(layer, stage):
            continue
        parts = [_pair(base, turned, layer, stage, a, b, keep, view) for a, b in index]
        limit = within(stage, _dtype(parts))
        site = _compare(layer, stage, parts, limit)
        rows += site.rows
        compared += 1
        excused += site.excused
        if site.worst > worst:
            worst, worst_at = site.worst, site_name(layer, stage)
        if site.difference is not None:
            found.append(site.difference)
    return Agreement(compared, rows, tuple(found), worst, worst_at, excused)


@dataclass(frozen=True)
class _Part:
    """One request's rows of a site on both sides, and the base's scores where the site holds ids."""

    a: torch.Tensor
    b: torch.Tensor
    base: Aligned
    at: NDArray[np.intp]
    scores: torch.Tensor | None = None
    missing: int = 0


@dataclass(frozen=True)
class _Compared:
    rows: int
    worst: float
    excused: int
    difference: Difference | None


def _pair(
    base: Trace, turned: Trace, layer: int | None, stage: str, of_base: int, of_turned: int, keep, view: View | None
) -> _Part | str:
    a, b = align(base, stage, layer, of_base), align(turned, stage, layer, of_turned)
    if a is None or b is None:
        return "was captured in one of both runs only"
    b = b if view is None else view(b)
    if a.tensor.shape[1:] != b.tensor.shape[1:] or a.tensor.dtype != b.tensor.dtype:
        shapes = f"{list(a.tensor.shape[1:])} {a.tensor.dtype} and {list(b.tensor.shape[1:])} {b.tensor.dtype}"
        return f"has rows of {shapes}"
    of_a, of_b, _ = pair_rows(oracle=a, sut=b)
    wanted = np.ones(len(a.position), bool) if keep is None else keep(a.position)
    kept = wanted[of_a]
    of_a, of_b = of_a[kept], of_b[kept]
    scores = None
    if term(stage).values == "ids":
        logits = align(base, "moe.router_logits", layer, of_base)
        scores = None if logits is None else logits.tensor.float().cpu()[torch.from_numpy(of_a)]
    rows = [_rows(t, i) for t, i in ((a.tensor, of_a), (b.tensor, of_b))]
    return _Part(rows[0], rows[1], a, of_a, scores, int(wanted.sum()) - len(of_a))


def _compare(layer: int | None, stage: str, parts: Sequence[_Part | str], limit: float) -> _Compared:
    bad, of, worst, excused, lost = [], 0, 0.0, 0, 0
    for part in parts:
        if isinstance(part, str):
            return _Compared(0, 0.0, 0, Difference(layer, stage, Slice(), 0, 0, float("inf"), {}, part))
        lost += part.missing
        by_slot = part.base.expert is not None
        flat = 2 if by_slot else 1
        a, b = (t.reshape(int(np.prod(t.shape[:flat])), -1) for t in (part.a, part.b))
        of += len(a)
        differ = bits_differ(a.cpu(), b.cpu())
        far = _distance(a, b, differ)
        if term(stage).values == "ids":
            over = differ.any(1)
            near = _near_ties(part, limit) & over if limit else torch.zeros(len(over), dtype=torch.bool)
            excused += int(near.sum())
            over = over & ~near
        else:
            over = differ.any(1) if limit == 0 else far > limit
            worst = max(worst, float(far.max()) if len(far) else 0.0)
        if over.any():
            bad.append((part, over.numpy(), differ, float(far[over].max())))
    if lost:
        gone = Difference(layer, stage, Slice(), lost, of + lost, float("inf"), {}, f"lacks {lost} rows in one run")
        return _Compared(of, worst, excused, gone)
    return _Compared(of, worst, excused, _difference(layer, stage, bad, of) if bad else None)


def _difference(layer: int | None, stage: str, bad: list, of: int) -> Difference:
    positions, rows, experts = [], [], {}
    heads: set[int] = set()
    count, far = 0, 0.0
    for part, over, differ, worst in bad:
        at = np.flatnonzero(over)
        count, far = count + len(at), max(far, worst)
        slots = part.base.slots or 1
        tokens = part.at[at // slots]
        positions.append(part.base.position[tokens])
        if part.base.expert is not None:
            expert = part.base.expert[tokens, at % slots]
            number = part.base.row_in_expert[tokens, at % slots]
            rows.append(number)
            for one in np.unique(expert):
                own = number[expert == one]
                first, last, n = experts.get(int(one), (1 << 62, -1, 0))
                experts[int(one)] = (min(first, int(own.min())), max(last, int(own.max())), n + len(own))
        else:
            rows.append(part.base.position[tokens])
        shape = part.a.shape
        if len(shape) == 3 and part.base.axes[1] in ("H", "G"):
            heads |= set(torch.nonzero(differ[at].view(len(at), *shape[1:]).any(2).any(0)).flatten().tolist())
    where = np.concatenate(positions)
    return Difference(
        layer=layer,
        stage=stage,
        slice=Slice(
            heads=tuple(sorted(heads)) or None,
            experts=tuple(sorted(experts)) or None,
            rows=tuple(np.unique(np.concatenate(rows)).tolist()),
            positions=(int(where.min()), int(where.max()) + 1),
        ),
        rows=count,
        of=of,
        rel_l2=far,
        by_expert=dict(sorted(experts.items())),
    )


def _distance(a: torch.Tensor, b: torch.Tensor, differ: torch.Tensor) -> torch.Tensor:
    """rel_l2 of each row, 0 for equal bits and infinite where a value that differs is not finite."""
    far = torch.zeros(len(a), dtype=torch.float64)
    rows = differ.any(1)
    if rows.any():
        y, x = a.cpu()[rows].double(), b.cpu()[rows].double()
        own = (x - y).norm(dim=1) / y.norm(dim=1)
        own[(x == y).all(1)] = 0.0  # -0 and +0
        far[rows] = torch.nan_to_num(own, nan=float("inf"), posinf=float("inf"))
    return far


def _near_ties(part: _Part, limit: float) -> torch.Tensor:
    """[T]: the ids differ where the scores of the base lie no further apart than `limit` of the largest."""
    k = part.a.shape[1]
    if part.scores is None:
        return torch.zeros(len(part.a), dtype=torch.bool)
    ranked = part.scores.sort(dim=1, descending=True).values[:, : k + 1]
    gaps = (ranked[:, :-1] - ranked[:, 1:]).min(dim=1).values
    return gaps <= limit * ranked.abs().max(dim=1).values


def _dtype(parts: Sequence[_Part | str]) -> torch.dtype:
    return next((part.a.dtype for part in parts if isinstance(part, _Part)), torch.float32)


def _rows(tensor: torch.Tensor, index: NDArray[np.intp]) -> torch.Tensor:
    if len(index) == len(tensor) and np.array_equal(index, np.arange(len(index))):
        return tensor
    picked = as_bits(tensor)[torch.from_numpy(index).to(tensor.device)]
    return picked.view(tensor.dtype)
