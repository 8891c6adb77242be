"""How much of a stage's error was inherited, how much was added there, and how much did the stage amplify?

With x the SUT's tensors, y the oracle's own chained ones, f the oracle's stage in exact arithmetic, on one site:

    shown          d(x_out, y_out)        what a chained comparison sees
    inherited      d(f(x_in), y_out)      the error of the SUT's inputs, carried through a stage that does it right
    added          d(x_out, f(x_in))      what the SUT's stage does otherwise than the oracle's, on the same inputs
    distance       d(x_out, e(x_in))      the same against the emulation e of the SUT's recipe: added, less its noise
    amplification  shown / worst d(x_in, y_in) over the inputs; above 1 the stage makes an error larger

d is rel_l2. Where the oracle was routed as the SUT was, expert rows are the same (token, expert) pairs on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from parity.align import align
from parity.compare import first_divergence
from parity.ladder.replay import Replay, ReplayedSite
from parity.metrics import pair_moments, rel_l2
from parity.records import Summary, site_name
from parity.stages import Family, term
from parity.trace import Trace

Squares = dict[str, list[tuple[float, float]]]
"""By column: (squares of the differences, of the oracle's values), one pair a request or piece of it."""


@dataclass(frozen=True)
class Attribution:
    """One stage of one phase, all requests together. Relative errors; None where a side does not have the tensors.

    error_in: the worst relative error among the inputs. obstacle: why a column is None.
    """

    layer: int | None
    stage: str
    phase: str
    shown: float | None
    inherited: float | None
    added: float | None
    distance: float | None
    error_in: float | None
    obstacle: str = ""

    @property
    def name(self) -> str:
        return site_name(self.layer, self.stage)

    @property
    def amplification(self) -> float | None:
        """Error out over error in; None without an error to amplify."""
        if self.shown is None or not self.error_in:
            return None
        return self.shown / self.error_in


@dataclass(frozen=True)
class FirstStages:
    """Names of the first site that adds error of its own, and of the first that shows any; None where none does."""

    adds: str | None
    shows: str | None


def first_stages(*, chained: Summary, isolated: Summary, graph: Family) -> FirstStages:
    """The two may differ: an error that is too small to show where it is added can show where it was amplified."""
    adds, shows = first_divergence(isolated, graph), first_divergence(chained, graph)
    return FirstStages(None if adds is None else adds.name, None if shows is None else shows.name)


def attribute(replay: Replay, truth: Trace) -> Iterator[Attribution]:
    """The columns of every site of the SUT's trace, in order of computation; stages of ids are left out.

    replay: of the SUT's trace, exact. truth: the oracle's own chained trace of the same requests, routed as the SUT
    was (`parity.ladder.sweep.oracle_trace`); other routes give expert rows that do not meet.
    """
    recipe = replay.trace.run.recipe.name
    for layer, node in replay.family.sites(replay.trace.run.layers):
        if term(node.name).values == "ids":
            continue
        squares: dict[str, Squares] = {}
        obstacle = ""
        for sites in replay.pieces(layer, node.name):
            for site in sites:
                obstacle = obstacle or site.obstacle
                _take(squares, replay, truth, replay.emulate(site, recipe))
        for phase in replay.phases():
            if phase in squares or obstacle:
                yield _attribution(layer, node.name, phase, squares.get(phase, {}), obstacle)


def _take(into: dict[str, Squares], replay: Replay, truth: Trace, site: ReplayedSite) -> None:
    """Add the squares of one replayed site, or of a piece of it, phase by phase."""
    if site.sut is None:
        return
    sut, between = site.sut, (int(site.sut.position[0]), int(site.sut.position[-1]) + 1)

    def of_truth(layer: int | None, stage: str) -> torch.Tensor | None:
        own = align(truth, stage, layer, site.request, between=between)
        return None if own is None or not np.array_equal(own.position, sut.position) else own.tensor

    chained = of_truth(site.layer, site.stage)
    before = {}
    for name, tensor in site.inputs.items():
        at = replay.family.resolve(site.layer, name, layers=replay.trace.run.layers)
        before[name] = of_truth(*at) if site.stage != "embed.out" and tensor.is_floating_point() else None
    for phase in ("prefill", "decode"):
        rows = torch.from_numpy(np.flatnonzero(sut.phase == phase))
        if not len(rows):
            continue
        squares = into.setdefault(phase, {})
        for column, oracle, other in (
            ("shown", chained, sut.tensor),
            ("inherited", chained, site.oracle),
            ("added", site.oracle, sut.tensor),
            ("distance", site.emulated, sut.tensor),
            *((f"in {name}", before[name], tensor) for name, tensor in site.inputs.items()),
        ):
            _note(squares, column, oracle, other, rows)


def _attribution(layer: int | None, stage: str, phase: str, squares: Squares, obstacle: str) -> Attribution:
    errors = {column: _relative(parts) for column, parts in squares.items()}
    inputs = [error for column, error in errors.items() if column.startswith("in ")]
    return Attribution(
        layer=layer,
        stage=stage,
        phase=phase,
        shown=errors.get("shown"),
        inherited=errors.get("inherited"),
        added=errors.get("added"),
        distance=errors.get("distance"),
        error_in=max(inputs, default=None),
        obstacle=obstacle,
    )


def _note(
    into: Squares,
    column: str,
    oracle: torch.Tensor | None,
    sut: torch.Tensor | None,
    rows: torch.Tensor,
) -> None:
    if oracle is None or sut is None or oracle.shape != sut.shape:
        return
    a, b = (tensor[rows].reshape(len(rows), -1) for tensor in (oracle, sut))
    moments = pair_moments(oracle=a, sut=b).total(axis=0).total(axis=0)
    if moments.nonfinite_sut or moments.nonfinite_oracle:
        into.setdefault(column, []).append((float("nan"), 1.0))
    elif moments.count:
        error = float(rel_l2(moments))
        yy = float(moments.yy)
        into.setdefault(column, []).append((error * error * yy if yy else float(moments.dd), yy))


def _relative(parts: list[tuple[float, float]]) -> float:
    """rel_l2 of several requests together."""
    dd, yy = (sum(part[at] for part in parts) for at in (0, 1))
    return 0.0 if dd == 0 else float("inf") if yy == 0 else float((dd / yy) ** 0.5)
