"""Which figures does an investigation get? Those that its stored records can show, the telling ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from parity.climb import Investigation
from parity.fingerprint import ReducedField
from parity.invariance import Coverage
from parity.reading import read_record

if TYPE_CHECKING:
    from parity.report.plots.style import Picture
    from parity.report.plots.text_divergence import TextPair

MOST_FIELDS = 3


@dataclass(frozen=True)
class Exhibit:
    """A figure with its file name, without suffix."""

    name: str
    picture: Picture


def can_draw() -> bool:
    """Whether matplotlib (extra `plots`) is installed; a report can do without pictures."""
    return find_spec("matplotlib") is not None


def draw_gallery(found: Investigation) -> list[Exhibit]:
    """The figures of an investigation, those of the finding first; empty without matplotlib."""
    if not can_draw():
        return []
    from parity.report.plots.error_by_depth import draw_error_by_depth
    from parity.report.plots.error_field import draw_error_field
    from parity.report.plots.expert_load import draw_expert_load, expert_loads
    from parity.report.plots.heads import draw_heads
    from parity.report.plots.layer_stage_map import draw_layer_stage_map
    from parity.report.plots.position_curve import draw_position_curve
    from parity.report.plots.score_distribution import draw_score_distribution
    from parity.report.plots.text_divergence import draw_text_divergence

    chained, isolated = found.summary(4, "chained"), found.summary(5, "isolated")
    panels = [
        (name, summary)
        for name, summary in (
            ("Chained, error from upstream included", chained),
            ("Isolated, each stage on the engine's own inputs", isolated),
        )
        if summary is not None
    ]
    fields = fields_of(found)
    exhibits = []
    emulated = found.summary(4, "emulation")
    control = [] if emulated is None else [("Control, the recipe's emulation in the engine's place, chained", emulated)]
    if panels:
        exhibits.append(Exhibit("layer-stage-map", draw_layer_stage_map([*panels, *control])))
    for number, field in enumerate(fields[:MOST_FIELDS], 1):
        exhibits.append(Exhibit(f"error-field-{number}", draw_error_field(field)))
    loads = expert_loads(_launches(found), fields)
    if loads:
        exhibits.append(Exhibit("expert-load", draw_expert_load(loads)))
    for number, field in enumerate([field for field in fields if len(field.heads)][:MOST_FIELDS], 1):
        exhibits.append(Exhibit(f"heads-{number}", draw_heads(field)))
    if fields:
        exhibits.append(Exhibit("position-curve", draw_position_curve(fields[:MOST_FIELDS])))
    if chained is not None:
        exhibits.append(Exhibit("error-by-depth", draw_error_by_depth(chained=chained, isolated=isolated)))
    if panels:
        exhibits.append(Exhibit("score-distribution", draw_score_distribution(panels)))
    texts = texts_of(found)
    if texts is not None:
        exhibits.append(Exhibit("text-divergence", draw_text_divergence(texts)))
    return exhibits


def coverage_of(found: Investigation) -> tuple[Coverage, ...]:
    """What each launch covered, as rung 3 stored it."""
    stored = _evidence(found, 3).get("coverage") or ()
    return tuple(read_record(Coverage, one, place="rung 3, coverage") for one in stored)


def fields_of(found: Investigation) -> list[ReducedField]:
    """The error fields of the finding's sites, as rung 6 stored them."""
    return [ReducedField.from_json(one) for one in _evidence(found, 6).get("fields") or ()]


def texts_of(found: Investigation) -> TextPair | None:
    """Both continuations with the distance of their logits, as rung 2 stored them; None where it did not run."""
    from parity.report.plots.text_divergence import TextPair

    evidence = _evidence(found, 2)
    decoding = evidence.get("decoding")
    if not isinstance(decoding, dict) or not decoding.get("oracle_ids"):
        return None
    prompt, kl = int(decoding["prompt_ids"]), [float(value) for value in decoding["kl"]]
    ties = [one["token"] for one in decoding["partings"] if one["near_tie"] and one["token"] is not None]
    free = decoding.get("free")
    if free and free.get("near_tie") and free.get("token") is not None:
        ties.append(free["token"])
    pieces = evidence.get("pieces") or {}
    return TextPair(
        oracle=tuple(decoding["oracle_ids"]),
        sut=tuple(decoding["sut_ids"]),
        oracle_texts=_words(pieces.get("oracle")),
        sut_texts=_words(pieces.get("sut")),
        near_ties=tuple(ties),
        kl=tuple(kl[max(prompt - 1, 0) :]),
    )


def _words(pieces: Sequence[Any] | None) -> tuple[str, ...] | None:
    return None if pieces is None else tuple(map(str, pieces))


def _launches(found: Investigation) -> list[Coverage]:
    """One launch a site: those of the finding, else those that fall short; none otherwise."""
    first: dict[str, Coverage] = {}
    for launch in coverage_of(found):
        first.setdefault(launch.name, launch)
    stage = found.finding.stage
    of_stage = [one for one in first.values() if one.stage == stage and one.layer in found.finding.layers]
    return of_stage or [one for one in first.values() if one.truncated]


def _evidence(found: Investigation, number: int) -> dict[str, Any]:
    result = found.rung(number)
    return {} if result is None or not result.evidence else dict(result.evidence)
