"""By which angle is each frequency pair turned against the oracle, as a function of position?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from parity.fingerprint.field import ErrorField

Array = NDArray[np.float64]
INPUT = {"attn.q_rope": "attn.q_norm", "attn.k_rope": "attn.k_norm"}


@dataclass(frozen=True)
class Rotation:
    """Angles of the SUT against the oracle by frequency pair: speed * position + start.

    pairs: P = rotary_dim / 2. speed, start: [P], radians (a token). gain: common factor of the magnitudes.
    omega: [P], the oracle's own radians a token. phasor: [T, P] complex, sum over heads of x conj(y).
    """

    rotary_dim: int
    speed: Array
    start: Array
    gain: float
    omega: Array
    phasor: NDArray[np.complex128]


def rotation_of(field: ErrorField) -> Rotation | None:
    """The rotation of a rope stage; None where heads are odd, positions have gaps, or the base is not known."""
    tokens, heads = field.tokens, field.heads
    if not field.stage.endswith("_rope") or tokens < 8 or not heads or (field.width // heads) % 2:
        return None
    position = field.row_position
    if not np.array_equal(position, np.arange(position[0], position[0] + tokens)):
        return None
    head_dim = field.width // heads
    before = rope_input(field)
    dim = _rotary_dim(field, before, head_dim)
    if dim < 2 or dim % 2:
        return None
    y, x = (as_pairs(t.view(tokens, heads, head_dim), dim) for t in (field.y, field.x))
    phasor = (x * y.conj()).sum(1).numpy().astype(np.complex128)
    speed = turning_speed(phasor)
    if before is not None:
        entered = as_pairs(before.view(tokens, heads, head_dim), dim)
        omega = turning_speed((y * entered.conj()).sum(1).numpy().astype(np.complex128))
    elif "rope_theta" in field.hyper:
        omega = rope_frequencies(float(field.hyper["rope_theta"]), dim)
    else:
        return None
    turned = (phasor * np.exp(-1j * speed * position[:, None])).sum(0)
    energy = float(y.abs().square().sum())
    gain = float(np.abs(turned).sum() / energy) if energy > 0 else 1.0
    return Rotation(dim, speed, np.angle(turned), gain, omega, phasor)


def rope_input(field: ErrorField) -> torch.Tensor | None:
    """[rows, width] before the rotation, where it is at hand."""
    return field.beside(field.inputs.get(INPUT.get(field.stage, "")))


def rope_frequencies(theta: float, dim: int) -> Array:
    """[dim / 2] radians a token: theta^(-2i/dim). Source: Su et al. 2021, arXiv 2104.09864, section 3.2.2."""
    return theta ** (-np.arange(0, dim, 2) / dim)


def as_pairs(values: torch.Tensor, dim: int) -> torch.Tensor:
    """[..., dim / 2] complex numbers of elements i and i + dim/2, the halves that Hugging Face's rope rotates."""
    return torch.complex(values[..., : dim // 2], values[..., dim // 2 : dim])


def rotate(values: torch.Tensor, angle: torch.Tensor, dim: int, *, interleaved: bool = False) -> torch.Tensor:
    """Turn the first `dim` elements of each head. values: [T, H, K]; angle: [T, dim / 2] radians."""
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]
    rest = values[..., dim:]
    if interleaved:
        pairs = torch.view_as_complex(values[..., :dim].unflatten(-1, (-1, 2)).contiguous()) * turn
        return torch.cat([torch.view_as_real(pairs).flatten(-2), rest], -1)
    pairs = as_pairs(values, dim) * turn
    return torch.cat([pairs.real, pairs.imag, rest], -1)


def turning_speed(phasor: NDArray[np.complex128]) -> Array:
    """Radians a token of each column of [T, P], positions one apart; |speed| < pi.

    The phase between neighbours gives a first estimate, which longer and longer lags refine: at lag L the phase is
    known to 1/L of its error, and the last estimate says how often it went round.
    """
    speed = np.angle((phasor[1:] * phasor[:-1].conj()).sum(0))
    lag = 2
    while lag <= len(phasor) // 2:
        phase = np.angle((phasor[lag:] * phasor[:-lag].conj()).sum(0))
        speed = speed + np.angle(np.exp(1j * (phase - lag * speed))) / lag
        lag *= 2
    return speed


def _rotary_dim(field: ErrorField, before: torch.Tensor | None, head_dim: int) -> int:
    """How many leading elements of each head the oracle rotates."""
    if before is None:
        return int(head_dim * float(field.hyper.get("partial_rotary_factor", 1.0)))
    moved = (field.y - before).view(field.rows, -1, head_dim).abs().amax((0, 1))
    size = before.view(field.rows, -1, head_dim).abs().amax((0, 1))
    turned = (moved > 0.01 * size.clamp(min=1e-30)).nonzero().flatten()
    last = int(turned[-1]) + 1 if len(turned) else 0
    # The slowest pairs hardly move: a rotation of everything shows at least in its faster half.
    return head_dim if last > head_dim // 2 else _even_part(last, head_dim)


def _even_part(last: int, head_dim: int) -> int:
    """The quarter or half of the head that holds the last moved element."""
    return next((part for part in (head_dim // 4, head_dim // 2) if last <= part and part % 2 == 0), head_dim)
