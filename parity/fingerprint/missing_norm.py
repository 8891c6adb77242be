"""Is a normalization, or its weight, left out? The SUT equals its input, or lacks the weight."""

from __future__ import annotations

import torch

from parity.fingerprint.causes import CHANNEL_RATIO, MISSING_NORM
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_after, telling_rows, worth_trying
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

NORMS = ("norm",)
"""A stage is a norm when the last word of its name ends so: attn.norm, attn.q_norm, mlp.norm, final_norm."""


OFFSET = ("the addition of 1 to the stored weight", "a weight that is 1 too large")
CENTRED = "a norm that subtracts the mean"
OTHER = (OFFSET[1], CENTRED)


@reads_values
def detect_missing_norm(field: ErrorField) -> Fingerprint | None:
    """Find which step of an RMSNorm the SUT leaves out. score: the share of the error that this explains.

    Reads the one input of a norm's stage; the norm acts inside heads where the stage has them. The weight is not
    asked for: it follows from the oracle, y / (input / rms(input)) by least squares over rows.
    """
    name = field.stage.rpartition(".")[2]
    given = [t for t in (field.beside(t) for t in field.inputs.values()) if t is not None]
    if not name.endswith(NORMS) or len(given) != 1:
        return None
    width = field.width // field.heads if field.heads else field.width
    entered = given[0].reshape(-1, width)
    y = field.y.reshape(-1, width)
    eps = float(field.hyper.get("rms_norm_eps", field.hyper.get("rms_eps", 1e-6)))
    unit = entered * torch.rsqrt(entered.square().mean(1, keepdim=True) + eps)
    weight = (y * unit).sum(0) / unit.square().sum(0).clamp(min=1e-30)
    rows = telling_rows(field)
    here, there = (t.view(field.rows, -1, width)[rows].view(-1, width) for t in (entered, unit))
    tried = _without(here, there, weight, eps).values()
    if not any(worth_trying(field, rows, value.reshape(len(rows), -1)) for value in tried):
        return None
    steps = _without(entered, unit, weight, eps)
    scores = {what: share_after(field, value.reshape(field.x.shape)) for what, value in steps.items()}
    left_out = max(scores, key=lambda what: scores[what])
    if not scores[left_out] > LEAST_SHARE:
        return None
    rms = float(entered.square().mean().sqrt())
    numbers = {"left_out": left_out, "explained": scores, "rms_of_input": rms}
    said = f"The SUT equals its input without {left_out}" if left_out not in OTHER else f"The SUT applies {left_out}"
    sentence = f"{said}: {percent(scores[left_out])} of the error (root mean square of the input {rms:.3g})."
    # A weight shifted by one is a factor of its own for each channel; the norm itself is applied.
    cause = CHANNEL_RATIO if left_out in OFFSET else MISSING_NORM
    return Fingerprint(cause, scores[left_out], numbers, sentence, Slice())


def _without(entered: torch.Tensor, unit: torch.Tensor, weight: torch.Tensor, eps: float) -> dict[str, torch.Tensor]:
    """The norm without one of its steps, or with another; entered, unit: [n, K], before and after the division."""
    centred = entered - entered.mean(1, keepdim=True)
    return {
        "the norm and its weight": entered,
        "the division by the root mean square": entered * weight,
        "the weight": unit,
        OFFSET[0]: unit * (weight - 1),
        OFFSET[1]: unit * (weight + 1),
        CENTRED: centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + eps) * weight,
    }
