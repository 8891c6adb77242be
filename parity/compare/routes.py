"""Did the SUT choose the right experts? Sets, not distances; a flip is excused by its margin, or it is a fault."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity.align import Routing
from parity.compare.labels import RowLabels
from parity.floor import Bin, NoiseFloor, position_range
from parity.records import Comparison, SliceResult, Verdict, site_name

STAGE, LOGITS = "moe.topk_ids", "moe.router_logits"


def margin_floor(
    floor: NoiseFloor, *, mode: str, layer: int | None, phase: NDArray[np.str_], position: NDArray[np.integer]
) -> NDArray[np.float64]:
    """[T], the largest margin that noise in the router's logits explains; NaN where the floor does not say.

    When every logit is within e of the oracle's, an exchange of a for b needs logit_a - logit_b <= 2 e in the oracle.
    e is the gate of max_abs of `moe.router_logits` at that position.
    """
    limits = np.full(len(position), np.nan)
    ranges = position_range(position)
    for at, which in {(int(r), str(p)) for r, p in zip(ranges, phase, strict=True)}:
        gate = floor.gate(Bin(mode, LOGITS, layer, "row", "max_abs", which, at, -1))
        if gate is not None:
            limits[(ranges == at) & (phase == which)] = 2 * gate
    return limits


def excused(routing: Routing, limits: NDArray[np.float64] | None) -> NDArray[np.bool_]:
    """[T], flips that noise explains. Without a floor (None) that is not known and no flip is blamed."""
    if limits is None:
        return routing.flipped.copy()
    with np.errstate(invalid="ignore"):
        return routing.flipped & (routing.margin <= limits)


@dataclass
class GatheredRoutes:
    """The ids of one phase of a layer, block by block, in order of position: of tokens only the worst and counts.

    equal: every block's ids stand in equal slots. score: the largest margin over its limit; None where none is known.
    """

    layer: int | None
    floor: NoiseFloor | None
    mode: str
    phase: str = "prefill"
    tokens: int = 0
    top_k: int = 0
    overlap: int = 0
    complete: int = 0
    flips: int = 0
    excused: int = 0
    unjudged: int = 0
    equal: bool = True
    score: float | None = None
    worst: SliceResult | None = None
    _rank: float = -math.inf

    def take(self, routing: Routing, labels: RowLabels) -> None:
        """Add a block. labels: [T], one a token."""
        if not len(labels):
            return
        over = self._over(routing, labels)
        self.phase, self.top_k = str(labels.phase[0]), routing.top_k
        self.overlap += int(routing.overlap.sum())
        self.complete += int((routing.overlap == routing.top_k).sum())
        self.flips += int(routing.flipped.sum())
        self.unjudged += int(np.isnan(over).sum())
        self.equal = self.equal and np.array_equal(routing.oracle_ids, routing.sut_ids)
        known = over[~np.isnan(over)]
        if self.floor is not None and len(known):
            self.score = max(float(known.max()), -math.inf if self.score is None else self.score)
        if routing.flipped.any():
            self._take_worst(routing, labels, over)
        self.tokens += len(labels)

    def finish(self) -> Comparison:
        """The comparison of the phase, after the last block."""
        flips, score = self.flips, self.score
        if not self.tokens:
            return self._record(Verdict.NOT_COMPARED, "empty: no tokens")
        if self.equal:
            return self._record(Verdict.MATCH, "", None if self.floor is None else 0.0)
        if not flips:
            return self._record(Verdict.WITHIN_FLOOR, "the same experts, slots in another order", 0.0)
        if self.floor is None:
            return self._record(Verdict.NO_FLOOR, f"{flips} tokens go to other experts; no floor was given")
        if score is not None and score > 1:
            margin = self.worst.metrics["margin"] if self.worst else 0.0
            where = self.worst.where if self.worst else ""
            return self._record(Verdict.EXCEEDS_FLOOR, f"{where}: margin {margin:.3g}, {score:.3g} times noise", score)
        if self.unjudged:
            return self._record(Verdict.NO_FLOOR, f"{self.unjudged} flips without a known margin or limit", score)
        return self._record(Verdict.WITHIN_FLOOR, f"{flips} near-ties decided otherwise", score)

    def _over(self, routing: Routing, labels: RowLabels) -> NDArray[np.float64]:
        """[T], each token's margin over its limit: 0 where nothing flipped, NaN where that is not known."""
        flips = np.flatnonzero(routing.flipped)
        over = np.zeros(len(routing.flipped))
        if self.floor is None:
            return over
        phase, position = labels.phase, labels.position
        limits = margin_floor(self.floor, mode=self.mode, layer=self.layer, phase=phase, position=position)
        self.excused += int(excused(routing, limits).sum())
        if len(flips):
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = routing.margin[flips] / limits[flips]
            over[flips] = np.where(routing.margin[flips] == 0, 0.0, ratio)
            over[flips] = np.where(np.isnan(limits[flips]) & (routing.margin[flips] != np.inf), np.nan, over[flips])
            over[flips] = np.where(routing.margin[flips] == np.inf, np.inf, over[flips])
        return over

    def _take_worst(self, routing: Routing, labels: RowLabels, over: NDArray[np.float64]) -> None:
        judged = self.floor is not None
        rank = np.where(np.isnan(over), -1.0, over) if judged else np.nan_to_num(routing.margin, nan=-1.0)
        rank = np.where(routing.flipped, rank, -2.0)
        at = int(rank.argmax())
        if rank[at] <= self._rank:
            return
        self._rank = float(rank[at])
        chosen = [sorted(ids[at].tolist()) for ids in (routing.oracle_ids, routing.sut_ids)]
        where = f"{labels.words(at)}: oracle {chosen[0]}, sut {chosen[1]}"
        metrics = {"margin": float(routing.margin[at]), "overlap": float(routing.overlap[at])}
        known = judged and not np.isnan(over[at])
        score, by = (float(over[at]), "margin") if known else (None, None)
        self.worst = SliceResult("row", self.tokens + at, where, metrics, score, by)

    def _record(self, verdict: Verdict, reason: str = "", score: float | None = None) -> Comparison:
        tokens, none = self.tokens, float("nan")
        whole = {
            "overlap": self.overlap / tokens if tokens else none,
            "top_k": float(self.top_k),
            "complete": self.complete / tokens if tokens else none,
            "flips": float(self.flips),
            "flips_excused": float(self.excused),
        }
        return Comparison(
            name=site_name(self.layer, STAGE),
            layer=self.layer,
            stage=STAGE,
            phase=self.phase,
            verdict=verdict,
            whole=whole,
            worst=() if self.worst is None else (self.worst,),
            over_floor=score,
            rows=tokens,
            reason=reason,
            unjudged=self.unjudged,
            mode=self.mode,
        )


def judge_routes(
    routing: Routing,
    labels: RowLabels,
    *,
    layer: int | None,
    floor: NoiseFloor | None,
    mode: str,
) -> Comparison:
    """The comparison of the ids of one phase. labels: [T], one a token.

    Equal ids in equal slots: MATCH. Equal sets: WITHIN_FLOOR, at 0 over it. Flips: EXCEEDS_FLOOR when any margin is
    over its limit, NO_FLOOR when the limit or the margin (no router logits of the oracle) is not known.
    """
    gathered = GatheredRoutes(layer, floor, mode, top_k=routing.top_k)
    gathered.take(routing, labels)
    return gathered.finish()
