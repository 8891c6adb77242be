"""Did the SUT choose the right experts? Sets, not distances; a flip is excused by its margin, or it is a fault."""

from __future__ import annotations

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
    flips = np.flatnonzero(routing.flipped)
    tokens, top_k = routing.slot.shape
    limits = (
        None
        if floor is None
        else margin_floor(floor, mode=mode, layer=layer, phase=labels.phase, position=labels.position)
    )
    excuses = excused(routing, limits) if limits is not None else np.zeros(tokens, bool)
    whole = {
        "overlap": float(routing.overlap.mean()) if tokens else float("nan"),
        "top_k": float(top_k),
        "complete": float((routing.overlap == top_k).mean()) if tokens else float("nan"),
        "flips": float(len(flips)),
        "flips_excused": float(excuses.sum()),
    }
    over = np.zeros(tokens)
    if limits is not None and len(flips):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = routing.margin[flips] / limits[flips]
        over[flips] = np.where(routing.margin[flips] == 0, 0.0, ratio)
        over[flips] = np.where(np.isnan(limits[flips]) & (routing.margin[flips] != np.inf), np.nan, over[flips])
        over[flips] = np.where(routing.margin[flips] == np.inf, np.inf, over[flips])
    known = over[~np.isnan(over)]
    score = None if limits is None or not len(known) else float(known.max())
    worst: tuple[SliceResult, ...] = (
        () if not len(flips) else (_worst_token(routing, labels, over, judged=limits is not None),)
    )

    def record(verdict: Verdict, reason: str = "", score: float | None = None) -> Comparison:
        return Comparison(
            name=site_name(layer, STAGE),
            layer=layer,
            stage=STAGE,
            phase=str(labels.phase[0]) if tokens else "prefill",
            verdict=verdict,
            whole=whole,
            worst=worst,
            over_floor=score,
            rows=tokens,
            reason=reason,
            unjudged=int(np.isnan(over).sum()),
            mode=mode,
        )

    if not tokens:
        return record(Verdict.NOT_COMPARED, "empty: no tokens")
    if np.array_equal(routing.oracle_ids, routing.sut_ids):
        return record(Verdict.MATCH, "", None if floor is None else 0.0)
    if not len(flips):
        return record(Verdict.WITHIN_FLOOR, "the same experts, slots in another order", 0.0)
    if limits is None:
        return record(Verdict.NO_FLOOR, f"{len(flips)} tokens go to other experts; no floor was given")
    if score is not None and score > 1:
        margin = worst[0].metrics["margin"] if worst else 0.0
        where = worst[0].where if worst else ""
        return record(Verdict.EXCEEDS_FLOOR, f"{where}: margin {margin:.3g}, {score:.3g} times noise", score)
    if np.isnan(over).any():
        return record(Verdict.NO_FLOOR, f"{int(np.isnan(over).sum())} flips without a known margin or limit", score)
    return record(Verdict.WITHIN_FLOOR, f"{len(flips)} near-ties decided otherwise", score)


def _worst_token(routing: Routing, labels: RowLabels, over: NDArray[np.float64], *, judged: bool) -> SliceResult:
    rank = np.where(np.isnan(over), -1.0, over) if judged else np.nan_to_num(routing.margin, nan=-1.0)
    at = int(np.where(routing.flipped, rank, -2.0).argmax())
    chosen = [sorted(ids[at].tolist()) for ids in (routing.oracle_ids, routing.sut_ids)]
    where = f"{labels.words(at)}: oracle {chosen[0]}, sut {chosen[1]}"
    metrics = {"margin": float(routing.margin[at]), "overlap": float(routing.overlap[at])}
    known = judged and not np.isnan(over[at])
    return SliceResult("row", at, where, metrics, float(over[at]) if known else None, "margin" if known else None)
