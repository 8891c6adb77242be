"""Do experts compute with another expert's weight? Every other one is tried on the rows' own inputs."""

from __future__ import annotations

import torch

from parity.fingerprint.causes import WRONG_INPUT
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.weight import projections
from parity.records import Slice

SAMPLE = 24
"""Rows of each expert that are tried, of those that carry its error: a wrong weight is wrong in every row, a wrong
offset in those between it and the right one."""

CARRIES = 0.01
"""Rows with less than this of the error of the expert's worst row are right."""

SHARE = 0.01
"""Experts with less of the field's error than this are passed over."""


@reads_values
def detect_wrong_expert(field: ErrorField) -> Fingerprint | None:
    """Find experts whose rows are another expert's product with their input. score: the share of the error explained,
    the sampled rows standing for the expert's.

    Needs expert rows and their weights, given or solved (parity.fingerprint.weight).
    """
    if field.row_expert is None:
        return None
    known = [p for p in projections(field) if p.expert is not None]
    if len(known) < 2:
        return None
    weights = torch.stack([p.weight for p in known])
    explained, source = 0.0, {}
    for number, own in enumerate(known):
        energy = float(field.d[own.rows].square().sum())
        if energy < SHARE * field.energy:
            continue
        error = torch.from_numpy(field.sums.dd.sum(1))[own.rows]
        wrong = torch.nonzero(error > CARRIES * error.max()).flatten()
        pick = wrong[torch.linspace(0, len(wrong) - 1, min(SAMPLE, len(wrong))).round().long()]
        x, before = field.x[own.rows[pick]], float(field.d[own.rows[pick]].square().sum())
        rest = (x - torch.einsum("nk,efk->enf", own.input[pick], weights)).square().sum((1, 2))
        rest[number] = float("inf")
        other = int(rest.argmin())
        left = float(rest[other])
        if left < (1 - LEAST_SHARE) * before and left < (1 - LEAST_SHARE) * float(x.square().sum()):
            source[own.expert] = known[other].expert
            explained += energy * (1 - left / before)
    score = explained / field.energy
    if not source or score < LEAST_SHARE:
        return None
    pairs = ", ".join(f"{own} with {other}'s" for own, other in list(source.items())[:8])
    numbers = {"weight_of_expert": {str(own): other for own, other in source.items()}}
    sentence = f"Experts compute with another expert's weight ({pairs}): {percent(score)} of the error."
    experts = tuple(sorted(e for e in source if e is not None))
    return Fingerprint(WRONG_INPUT, min(score, 1.0), numbers, sentence, Slice(experts=experts))
