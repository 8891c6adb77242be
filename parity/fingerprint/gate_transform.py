"""Is the function of a gate left out, or another one applied? Silu, sigmoid, softplus and exp, tried on the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from parity.fingerprint.causes import GATE_TRANSFORM, GATE_UP_SWAPPED
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_after, telling_rows, worth_trying
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

Function = Callable[[torch.Tensor], torch.Tensor]

FUNCTIONS: dict[str, Function] = {
    "silu": torch.nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "exp": lambda x: torch.exp(x.clamp(max=80)),
    "-exp": lambda x: -torch.exp(x.clamp(max=80)),
    "gelu": torch.nn.functional.gelu,
    "gelu (tanh)": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "relu^2": lambda x: torch.relu(x).square(),
    "tanh": torch.tanh,
}

IDENTITY = "nothing"

FITS = 1e-2
"""Relative residual up to which the oracle counts as the function of its inputs; bf16 rounds to 4e-3."""


@reads_values
def detect_gate_transform(field: ErrorField) -> Fingerprint | None:
    """Find an elementwise stage, f(a) or f(a) * b of its inputs, that the SUT computes with another function, without
    one, without a factor, or with a and b exchanged. score: the share of the error explained.

    Which function is right follows from the oracle, so any stage of one or two inputs of its own width is read.
    """
    inputs = {name: flat for name, t in field.inputs.items() if (flat := field.beside(t)) is not None}
    if not 1 <= len(inputs) <= 2:
        return None
    right = _right(field, inputs)
    if right is None:
        return None
    function, gate, factor = right
    rows = telling_rows(field)
    some = {name: values[rows] for name, values in inputs.items()}
    if not any(worth_trying(field, rows, value) for _, value in _wrong(some, function, gate, factor)):
        return None
    tried = {
        name: share_after(field, value)
        for name, value in _wrong(inputs, function, gate, factor)
        if bool(torch.isfinite(value).all())
    }
    best = max(tried, key=lambda name: tried[name])
    if tried[best] < LEAST_SHARE:
        return None
    swapped = best == "exchanged"
    words = f"{gate} and {factor} are exchanged" if swapped else f"The gate is {best} where the oracle's is {function}"
    numbers = {"function": best, "expected": function, "gate": gate, "factor": factor, "explained": tried}
    sentence = f"{words}: {percent(tried[best])} of the error."
    return Fingerprint(GATE_UP_SWAPPED if swapped else GATE_TRANSFORM, tried[best], numbers, sentence, Slice())


def _right(field: ErrorField, inputs: dict[str, torch.Tensor]) -> tuple[str, str, str | None] | None:
    """(function, gate, factor) that the oracle is; None where it is none of these."""
    size = float(field.y.square().sum())
    names = list(inputs)
    pairs = [(a, b) for a in names for b in names if a != b] if len(names) == 2 else [(names[0], None)]
    # Some rows tell one function from another; all of them say whether it is the oracle's.
    step = max(field.rows // 64, 1)
    y = field.y[::step]
    found = []
    for gate, factor in pairs:
        for name, function in FUNCTIONS.items():
            value = function(inputs[gate][::step])
            value = value if factor is None else value * inputs[factor][::step]
            rest = float((y - value).square().sum())
            if rest == rest:
                found.append((rest, name, gate, factor))
    rest, name, gate, factor = min(found, key=lambda one: one[0])
    return (name, gate, factor) if rest <= FITS**2 * float(y.square().sum()) and size > 0 else None


def _wrong(
    inputs: dict[str, torch.Tensor], function: str, gate: str, factor: str | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """(what, the whole tensor) of everything that could stand in the oracle's place."""
    a, f = inputs[gate], FUNCTIONS[function]
    b = 1.0 if factor is None else inputs[factor]
    yield IDENTITY, a * b
    for name, other in FUNCTIONS.items():
        if name != function:
            yield name, other(a) * b
    if factor is not None:
        yield "exchanged", f(inputs[factor]) * a
        yield f"left out ({factor} alone)", inputs[factor]
        yield f"{function} without the factor {factor}", f(a)
