"""Which rotary embedding did the SUT apply? Another base, scaled frequencies, other dims, pairs or positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from parity.fingerprint.causes import ROPE_PAIRING, ROPE_PARTIAL, ROPE_POSITION, ROPE_SCALING, ROPE_THETA
from parity.fingerprint.evidence import LEAST_SHARE, change_point, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.rotation import Rotation, rope_input, rotate, rotation_of
from parity.records import Slice

FREE = 0.02
"""How much of the error a law of few numbers (a base, an offset) may leave to angles fitted pair by pair."""

OFFSETS = 4096
"""Largest constant error of the position that is looked for."""


PARTS = 16
"""Stretches of tokens with an offset each; a decode step is a launch of one token and tells little."""


@dataclass(frozen=True)
class Law:
    """One way to rotate: the cause it would be, its numbers, the share of the error it explains, in words."""

    cause: str
    score: float
    numbers: dict[str, Any]
    words: str


@reads_values
def detect_rope(field: ErrorField) -> Fingerprint | None:
    """Find how the rotation of a rope stage differs from the oracle's. score: the share of the error explained.

    Angles against the oracle are estimated by frequency pair as speed * position + start, then read as an offset of the
    position, another base, or scaled frequencies, the simplest law that explains as much as the free angles. With the
    input of the stage other parts of the head and other pairs are tried as well.
    """
    rotation = rotation_of(field)
    if rotation is None:
        return None
    free = _turned(field, rotation, rotation.speed, rotation.start)
    laws = [*_from_input(field, rotation)]
    if free > LEAST_SHARE:
        laws = [_offset(field, rotation), _base(field, rotation), *laws, _scaled(field, rotation, free)]
    laws.append(_offset_by_part(field, rotation))
    laws = [law for law in laws if law.score > LEAST_SHARE]
    if not laws:
        return None
    best = max(law.score for law in laws)
    law = next(law for law in laws if law.score >= best - FREE)
    numbers = {
        **law.numbers,
        "explained_by_free_angles": free,
        "frequency_ratio": _ratio(rotation).round(5).tolist(),
        "start": rotation.start.round(5).tolist(),
    }
    sentence = f"{law.words}: {percent(law.score)} of the error."
    return Fingerprint(law.cause, law.score, numbers, sentence, Slice())


def _ratio(rotation: Rotation) -> np.ndarray:
    """The SUT's frequency over the oracle's by pair; NaN where the oracle's is 0."""
    omega = rotation.omega
    safe = np.where(np.abs(omega) > 1e-12, omega, np.nan)
    return (omega + rotation.speed) / safe


def _turned(field: ErrorField, rotation: Rotation, speed: np.ndarray, start: np.ndarray | float) -> float:
    """Share explained by turning the oracle's pairs."""
    angle = torch.from_numpy(field.row_position[:, None] * speed + start).float()
    y = field.y.view(field.tokens, field.heads, -1)
    predicted = rotate(y, angle, rotation.rotary_dim)
    predicted[..., : rotation.rotary_dim] *= rotation.gain
    return share_after(field, predicted.reshape(field.x.shape))


def _offset(field: ErrorField, rotation: Rotation) -> Law:
    """Positions counted from elsewhere: every pair turned by its own frequency times one number."""
    by = _best_offset(rotation.phasor, rotation.omega)
    score = _turned(field, rotation, np.zeros_like(rotation.speed), by * rotation.omega) if by else 0.0
    return Law(ROPE_POSITION, score, {"offset": by}, f"Positions are {by:+d} from the tokens' own in the rotation")


def _best_offset(phasor: np.ndarray, omega: np.ndarray) -> int:
    """Positions by which the tokens of [T, P] phasors are turned, one number for all of them."""
    # exp(-i (a + b) w) is a product: a hundred angles of each kind in place of all their sums.
    step = math.isqrt(2 * OFFSETS) + 1
    coarse, fine = np.arange(-OFFSETS, OFFSETS + 1, step), np.arange(step)
    fit = ((np.exp(-1j * coarse[:, None] * omega) * phasor.sum(0)) @ np.exp(-1j * fine[:, None] * omega).T).real
    return int((coarse[:, None] + fine).ravel()[int(fit.argmax())])


def _offset_by_part(field: ErrorField, rotation: Rotation) -> Law:
    """Positions counted from elsewhere from some token on, or anew in each launch."""
    launch = field.row_launch
    yy, _, dd = field.sums.rows
    onset = change_point(np.divide(dd, yy, out=np.zeros_like(dd), where=yy > 0))
    starts = sorted({0, onset, *(np.flatnonzero(np.diff(launch)) + 1).tolist()})
    if len(starts) < 2 or len(starts) > PARTS:
        return Law(ROPE_POSITION, 0.0, {}, "")
    by = np.zeros(field.tokens)
    found = {}
    for first, stop in zip(starts, [*starts[1:], field.tokens], strict=True):
        found[first] = _best_offset(rotation.phasor[first:stop], rotation.omega)
        by[first:stop] = found[first]
    angle = torch.from_numpy(by[:, None] * rotation.omega).float()
    y = field.y.view(field.tokens, field.heads, -1)
    score = share_after(field, rotate(y, angle, rotation.rotary_dim).reshape(field.x.shape))
    wrong = {int(field.row_position[first]): offset for first, offset in found.items() if offset}
    words = ", ".join(f"{offset:+d} from {first} on" for first, offset in wrong.items())
    return Law(ROPE_POSITION, score if wrong else 0.0, {"offset_from": wrong}, f"Positions in the rotation are {words}")


def _base(field: ErrorField, rotation: Rotation) -> Law:
    """theta'^(-2i/dim): the logarithms of the SUT's frequencies on a line through 0."""
    dim = rotation.rotary_dim
    own = rotation.omega + rotation.speed
    i = np.arange(len(own)) / (dim / 2)
    good = (own > 0) & (i > 0)
    if not good.any():
        return Law(ROPE_THETA, 0.0, {}, "")

    def line(values: np.ndarray, where: np.ndarray) -> float:
        # The error of a logarithm is that of the frequency over the frequency.
        weight = values[where] ** 2
        return float(-(weight * i[where] * np.log(values[where])).sum() / (weight * i[where] ** 2).sum())

    exponent = line(own, good)
    positive = (rotation.omega > 0) & (i > 0)
    oracle = float(np.exp(line(rotation.omega, positive))) if positive.any() else float("nan")
    theta = float(np.exp(exponent))
    speed = theta ** (-i) - rotation.omega
    score = _turned(field, rotation, speed, 0.0)
    numbers = {"theta": theta, "oracle_theta": oracle}
    return Law(ROPE_THETA, score, numbers, f"The rotation's base is {theta:.6g} where the oracle's is {oracle:.6g}")


def _scaled(field: ErrorField, rotation: Rotation, free: float) -> Law:
    """Pairs with frequencies of their own: which, and by what factor."""
    position = field.row_position[:, None]
    turned = np.abs((rotation.phasor * np.exp(-1j * rotation.speed * position)).sum(0))
    still = rotation.phasor.real.sum(0)
    off = np.flatnonzero(turned - still > 0.01 * turned.max(initial=0.0))
    ratio = _ratio(rotation)[off]
    ratio = ratio[np.isfinite(ratio)]
    first, last = (int(off[0]), int(off[-1])) if len(off) else (0, 0)
    middle = float(np.median(ratio)) if len(ratio) else float("nan")
    numbers = {
        "pairs": off.tolist(),
        "of_pairs": len(rotation.speed),
        "median_frequency_ratio": middle,
        "lowest_frequency_ratio": float(ratio.min()) if len(ratio) else None,
        "gain": rotation.gain,
    }
    if len(ratio) and len(off) >= len(rotation.speed) / 2 and abs(middle + 1) < 0.01 and ratio.max() < 0:
        return Law(ROPE_PAIRING, free, numbers, "Every pair is turned the other way round: the sign of its second half")
    words = (
        f"Frequency pairs {first} to {last} of {len(rotation.speed)} turn at {middle:.4g} times the oracle's speed "
        f"(median; magnitudes {rotation.gain:.4g})"
    )
    return Law(ROPE_SCALING, free, numbers, words)


def _from_input(field: ErrorField, rotation: Rotation) -> list[Law]:
    """Rotations of another part of the head, and of other pairs, computed from the stage's own input."""
    before = rope_input(field)
    if before is None:
        return []
    head_dim = field.width // field.heads
    values = before.view(field.tokens, field.heads, head_dim)
    i = np.arange(len(rotation.omega)) / max(len(rotation.omega), 1)
    steady = (rotation.omega > 0) & (i > 0)
    if not steady.any():
        return []
    weight = rotation.omega[steady] ** 2
    exponent = -(weight * i[steady] * np.log(rotation.omega[steady])).sum() / (weight * i[steady] ** 2).sum()
    theta = float(np.exp(exponent))
    position = field.row_position[:, None]
    laws = []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        dim = int(head_dim * part)
        if dim % 2 or dim == rotation.rotary_dim:
            continue
        angle = torch.from_numpy(position * theta ** (-np.arange(0, dim, 2) / max(dim, 1))).float()
        score = share_after(field, rotate(values, angle, dim).reshape(field.x.shape) if dim else before)
        what = f"{dim} of {head_dim} elements of each head are" if dim else "Nothing is"
        words = f"{what} rotated where the oracle rotates {rotation.rotary_dim}"
        laws.append(Law(ROPE_PARTIAL, score, {"rotated": dim, "expected": rotation.rotary_dim}, words))
    angle = torch.from_numpy(position * rotation.omega).float()
    score = share_after(field, rotate(values, angle, rotation.rotary_dim, interleaved=True).reshape(field.x.shape))
    laws.append(Law(ROPE_PAIRING, score, {}, "Neighbouring elements are paired where the oracle pairs halves"))
    return [law for law in laws if law.score > LEAST_SHARE]
