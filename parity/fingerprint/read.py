"""What does the error field of a stage say? Every detector's answer, the best explanation first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.tile_edge import detect_tile_edge

Detector = Callable[[ErrorField], Fingerprint | None]

DETECTORS: tuple[Detector, ...] = (detect_tile_edge,)
"""All detectors, the more specific first: of two that explain a field equally well, the earlier one stands first."""

TIE = 0.02
"""Scores this near are one: noise of FP8 leaves 0.03 of a row's norm, hence 0.001 of the energy, to either."""


def read_fingerprints(field: ErrorField, *, detectors: Sequence[Detector] = DETECTORS) -> tuple[Fingerprint, ...]:
    """Every detector's result on a field, by score; empty where the field has no error or no known shape.

    A score is the share of the error's energy that the pattern explains, 1 - |residual|^2 / |error|^2, so that scores
    of different detectors compare. Scores within TIE of the best of their group stand in the order of `detectors`.
    """
    if field.ids is False and field.silent:
        return ()
    found = [(rank, result) for rank, detector in enumerate(detectors) if (result := detector(field)) is not None]
    found.sort(key=lambda pair: -pair[1].score)
    ordered: list[Fingerprint] = []
    while found:
        best = found[0][1].score
        group = [pair for pair in found if pair[1].score >= best - TIE]
        ordered += [result for _, result in sorted(group, key=lambda pair: pair[0])]
        found = found[len(group) :]
    return tuple(ordered)
