"""Is what a stage made of its own inputs right? Two gates: the error against exact arithmetic, the distance to the
recipe's emulation.

On identical inputs the recipe's roundings are shared: the SUT and the emulation quantize the same numbers alike, so
that what is left between them is the order of sums. A scale error of 1.005 moves an FP8 projection's error against
FP32 from 2.7 % to 2.75 %, which no gate sees, and its distance to the emulation from 1e-5 to 5e-3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from parity.align import Aligned, Routing, route
from parity.compare.gathered import Gathered
from parity.compare.judge import judge_gathered
from parity.compare.labels import RowLabels
from parity.compare.measure import PHASES
from parity.compare.pair import check_pair, label_aligned, measure_replayed
from parity.compare.routes import judge_routes
from parity.floor import Floor
from parity.records import Comparison, Verdict, site_name
from parity.stages import term

Pair = tuple[torch.Tensor, Aligned]


@dataclass(frozen=True)
class Piece:
    """Some rows of one stage, of one or more requests.

    pairs: (what the exact oracle makes of the SUT's inputs, what the SUT made of them), one a request, at least one.
    emulated: what the recipe's emulation makes of them; None leaves the distance gate out.
    router_logits: [T, E] of each request, for `moe.topk_ids` only, whose rows come in one piece.
    """

    pairs: Sequence[Pair]
    emulated: Sequence[torch.Tensor | None] | None = None
    router_logits: Sequence[torch.Tensor | None] | None = None


def judge_replayed(
    pairs: Sequence[Pair],
    *,
    emulated: Sequence[torch.Tensor | None] | None = None,
    router_logits: Sequence[torch.Tensor | None] | None = None,
    floor: Floor | None,
) -> tuple[Comparison, ...]:
    """The comparisons of one stage, one a phase, over one or more requests; arguments as the fields of a Piece."""
    piece = Piece(pairs, emulated, router_logits)
    return judge_pieces(lambda: iter((piece,)), floor=floor)


def judge_pieces(pieces: Callable[[], Iterator[Piece]], *, floor: Floor | None) -> tuple[Comparison, ...]:
    """The comparisons of one stage, one a phase, over all its pieces; empty without any.

    pieces: gives them in order of position, one held at a time; asked again where the error is over its gate.
    Nothing broadcasts: a pair of other shapes or kinds of dtype gives SHAPE_MISMATCH or DTYPE_MISMATCH for the stage.
    """
    error, near, by_distance = _Gathering(floor, "isolated"), _Gathering(floor, "distance"), floor is not None
    for piece in pieces():
        for oracle, sut in piece.pairs:
            wrong = check_pair(
                oracle=oracle, sut=sut.tensor, axes=sut.axes, stage=sut.stage, layer=sut.layer, mode="isolated"
            )
            if wrong is not None:
                return (wrong,)
        if term(piece.pairs[0][1].stage).values == "ids":
            return _judge_choices(piece.pairs, piece.router_logits or [None] * len(piece.pairs), floor)
        error.take(piece.pairs)
        emulated = [one for one in piece.emulated or () if one is not None]
        by_distance = by_distance and len(emulated) == len(piece.pairs)
        if by_distance:
            near.take([(e, sut) for e, (_, sut) in zip(emulated, piece.pairs, strict=True)])
    errors = error.judged()
    if not by_distance:
        return tuple(_alone(record) for record in errors)
    if any(one.verdict is Verdict.EXCEEDS_FLOOR for one in errors):
        own = _Gathering(floor, "isolated")
        for piece in pieces():
            of_recipe = zip(piece.emulated or (), piece.pairs, strict=True)
            own.take([(o, replace(sut, tensor=e)) for e, (o, sut) in of_recipe if e is not None])
        errors = [_unless_the_recipe_is(one, mine) for one, mine in zip(errors, own.judged(), strict=True)]
    return tuple(_worse(one, distance) for one, distance in zip(errors, near.judged(), strict=True))


class _Gathering:
    """One stage piece by piece, a judgement a phase."""

    def __init__(self, floor: Floor | None, mode: str) -> None:
        self.floor, self.mode = floor, mode
        self.phases: dict[str, Gathered] = {}
        self.several = False

    def take(self, pairs: Sequence[Pair]) -> None:
        self.several = self.several or len(pairs) > 1
        for measured in measure_replayed(pairs):
            gathered = Gathered(self.floor, self.mode, several=self.several)
            self.phases.setdefault(measured.phase, gathered).take(measured)

    def judged(self) -> list[Comparison]:
        """Prefill first."""
        return [judge_gathered(self.phases[phase]) for phase in PHASES if phase in self.phases]


def _unless_the_recipe_is(error: Comparison, own: Comparison) -> Comparison:
    """The record of the error gate where the recipe's emulation is within that gate on the same inputs.

    Where it is over it too, the inputs are none that the floor knows (no text, or what a fault upstream left), and a
    correct implementation would be blamed: the distance to the emulation judges alone.
    """
    if error.verdict is not Verdict.EXCEEDS_FLOOR or own.over_floor is None or own.over_floor <= 1:
        return error
    assert error.over_floor is not None
    reason = f"the recipe's own emulation is {own.over_floor:.3g} times the gate on these inputs: judged by distance"
    share = min(error.over_floor / own.over_floor, 1.0)
    return replace(error, verdict=Verdict.WITHIN_FLOOR, over_floor=share, reason=reason)


def _alone(error: Comparison) -> Comparison:
    return error if error.over_floor is None else replace(error, over_gates={"error": error.over_floor})


def _worse(error: Comparison, distance: Comparison) -> Comparison:
    """One record of both gates: cleared by both, or blamed by the one that says most.

    The whole tensor's metrics stay those against exact arithmetic. A distance that cannot be judged leaves the stage
    unresolved: half a judgement is none.
    """
    scores = {"error": error.over_floor, "distance": distance.over_floor}
    gates = {name: score for name, score in scores.items() if score is not None}
    both = replace(error, over_gates=gates, unjudged=max(error.unjudged, distance.unjudged))
    if error.verdict is Verdict.NONFINITE or distance.verdict is Verdict.MATCH:
        return both
    blamed = distance.verdict is Verdict.EXCEEDS_FLOOR
    if blamed and (error.verdict is not Verdict.EXCEEDS_FLOOR or gates["distance"] > gates.get("error", 0.0)):
        reason = f"{distance.reason}, by distance to the recipe's emulation on the same inputs"
        return replace(
            both, verdict=distance.verdict, reason=reason, worst=distance.worst, over_floor=distance.over_floor
        )
    if error.verdict.healthy and not distance.verdict.healthy:
        reason = f"{distance.reason}, by distance to the recipe's emulation"
        return replace(both, verdict=distance.verdict, reason=reason)
    if error.verdict is Verdict.MATCH and gates:
        return replace(both, over_floor=max(gates.values()))
    if error.verdict is Verdict.WITHIN_FLOOR and gates.get("distance", 0.0) > gates["error"]:
        return replace(both, over_floor=gates["distance"], worst=distance.worst)
    return both


def _judge_choices(
    pairs: Sequence[Pair], logits: Sequence[torch.Tensor | None], floor: Floor | None
) -> tuple[Comparison, ...]:
    found: dict[str, list[tuple[Routing, RowLabels]]] = {}
    for (oracle, sut), scores in zip(pairs, logits, strict=True):
        labels = label_aligned(sut)
        wide = None if scores is None else scores.float().cpu().numpy()
        for phase in sorted(set(labels.phase.tolist()), key=("prefill", "decode").index) or ["prefill"]:
            here = labels.phase == phase
            routing = route(
                oracle_ids=oracle.cpu().numpy()[here],
                sut_ids=sut.tensor.cpu().numpy()[here],
                router_logits=None if wide is None else wide[here],
            )
            found.setdefault(phase, []).append((routing, labels[here]))
    layer, stage = pairs[0][1].layer, pairs[0][1].stage
    records = []
    for phase in sorted(found, key=("prefill", "decode").index):
        parts = found[phase]
        routing = Routing.join([(one, labels.position >= 0) for one, labels in parts])
        record = judge_routes(
            routing, RowLabels.join([labels for _, labels in parts]), layer=layer, floor=floor, mode="isolated"
        )
        records.append(_alone(replace(record, name=site_name(layer, stage))))
    return tuple(records)
