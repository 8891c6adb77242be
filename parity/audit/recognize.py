"""Is this the tensor that it should be, and if not, what is it? By digest, by one rounding, by what differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import correlation

from parity.audit.grid import FORMATS
from parity.audit.order import ROWS, say_order, tell_order
from parity.audit.tensors import BF16_ROUNDING, StoredTensor, TensorProbe
from parity.fingerprint import causes

E4M3 = "float8_e4m3fn"

ZEROS = "zeros in place of a weight"
ONES = "ones in place of a tensor"
ONE_VALUE = "one value in place of a tensor"
SCALES = "scales never consumed"
OTHER = "another tensor of the checkpoint"
ORDER = "the right elements in another order"
FACTOR = "scaled by a constant"
OFFSET = "offset by a constant"
NARROWED = "rounded to a narrower format"
CHANGED = "changed on its way from the checkpoint"
NEITHER = "values of no checkpoint tensor"

FEWEST = 16
"""Samples by which two tensors are said to resemble each other: chance correlations are below 0.5 at two sigma."""

FACTOR_SPREAD = 2 * BF16_ROUNDING
"""Ratios of samples to one factor: the values were rounded once before the factor and may have been after it."""


def holds(probe: TensorProbe, tensor: StoredTensor) -> str | None:
    """The form in which `probe` holds `tensor`: `codes`, `values`, `bfloat16`, `q8_0`, `rounded`, or None.

    `rounded`: the dequantized values with at most one rounding to bf16 or finer, on every sample; an engine's own
    dequantizer may round otherwise than the oracle's.
    """
    forms = tensor.forms
    for name in ("codes", "values", "bfloat16", "q8_0"):
        form = forms.get(name)
        if form is not None and (form.digest, form.shape) == (probe.digest, probe.shape):
            return name
    values = forms["values"]
    if probe.dtype == E4M3 or probe.shape != values.shape:
        return None
    pairs = list(zip(probe.samples, values.samples, strict=True))
    if pairs and tensor.scales is None and any(b != 0 for _, b in pairs):
        near = all(abs(a - b) <= BF16_ROUNDING * abs(b) for a, b in pairs)
        level = abs(probe.rms - values.rms) <= BF16_ROUNDING * values.rms
        # A BF16 checkpoint has nothing to round: an engine that holds other bits holds another tensor.
        if near and level and forms.get("bfloat16", values).digest != values.digest:
            return "rounded"
    return None


def describe_content(probe: TensorProbe, tensor: StoredTensor, stored: Sequence[StoredTensor]) -> tuple[str, str, str]:
    """(what it is, cause class, words) of a tensor that is not the one it should be."""
    unbound = causes.SCALES_UNUSED if tensor.scales is not None else causes.TENSOR_UNBOUND
    if not math.isfinite(probe.rms):
        return "not finite", causes.NONFINITE, "it holds values that are not finite"
    if probe.largest == 0:
        return ZEROS, unbound, "zeros are read"
    if set(probe.samples) == {1.0} and probe.rms == 1.0:
        return ONES if tensor.scales is None else SCALES, unbound, "ones are read"
    for other in stored:
        if other.name != tensor.name and any(form.digest == probe.digest for form in other.forms.values()):
            return OTHER, causes.WRONG_INPUT, f"{other.name} is read"
    same = set(probe.samples) in ({probe.rms}, {-probe.rms})  # the root of a mean of equal squares
    if same and len(set(tensor.forms["values"].samples)) > 1:
        return ONE_VALUE, unbound, f"{probe.samples[0]:.6g} is read everywhere"
    if any(form.unordered == probe.unordered for form in tensor.forms.values()):
        return ORDER, *_order(probe, tensor)
    factor = _factor(probe, tensor)
    if factor is not None:
        return FACTOR, causes.CONSTANT_RATIO, f"{factor:.6g} times its values"
    wanted = tensor.forms["values"]
    text = f"rms {probe.rms:.4g} where the checkpoint's is {wanted.rms:.4g}, shape {list(probe.shape)}"
    offset = _offset(probe, tensor)
    if offset is not None:
        cause = causes.CHANNEL_RATIO if len(probe.shape) == 1 else ""
        return OFFSET, cause, f"its values and {offset:+.6g}"
    narrow = _narrowed(probe, tensor)
    if narrow and _resembles(probe, tensor):
        cause = causes.E4M3_GRID if narrow.startswith("E4M3") else causes.NARROW_GRID
        return NARROWED, cause, f"its values rounded to {narrow}, shape {list(probe.shape)}"
    # It is bound, hence the loader's rules are not the cause: the stage that reads it shows what was done to it.
    return (CHANGED, "", text) if _resembles(probe, tensor) else (NEITHER, unbound, text)


def _order(probe: TensorProbe, tensor: StoredTensor) -> tuple[str, str]:
    """(cause class, words) of the right elements in another order. Rows of a weight are the columns of what it computes
    (or their heads: the stage's own error tells)."""
    told = None
    for form in tensor.forms.values():
        if form.unordered == probe.unordered:
            told = tell_order(rows=probe.rows, columns=probe.columns, own_rows=form.rows, own_columns=form.columns)
            if told is not None:
                break
    words = f"its elements in another order, shape {list(probe.shape)}"
    words += f": {say_order(*told)}" if told is not None else ""
    if tensor.scales is not None:
        return causes.BLOCK_SCALES, words
    return (causes.COLUMNS_PERMUTED if told is not None and told[0] == ROWS else causes.TRANSPOSED), words


def _narrowed(probe: TensorProbe, tensor: StoredTensor) -> str:
    """The narrower format that the values were rounded to, in words; empty where they need as many bits as theirs."""
    if probe.dtype == E4M3 or tensor.scales is not None:
        return ""
    forms = [form for name, form in tensor.forms.items() if name != "codes"]
    if probe.significant < min(form.significant for form in forms):
        at_most = next((bits for bits in FORMATS if probe.significant <= bits), None)
        if at_most is not None:
            return FORMATS[at_most]
    if probe.e4m3_scale and not any(form.e4m3_scale for form in forms):
        return f"E4M3 with a scale for {probe.e4m3_scale}"
    return ""


def _alike(probe: TensorProbe, tensor: StoredTensor) -> list[tuple[float, float]]:
    """Samples of both in the same units, pair for pair; empty where there are none."""
    form = tensor.forms.get("codes" if probe.dtype == E4M3 else "values")
    if form is None or form.shape != probe.shape or len(form.samples) != len(probe.samples):
        return []
    return list(zip(probe.samples, form.samples, strict=True))


def _offset(probe: TensorProbe, tensor: StoredTensor) -> float | None:
    """The constant that lies between both, a norm's weight stored as w - 1 for instance; None where none does."""
    pairs = _alike(probe, tensor)
    if len(pairs) < 3 or probe.dtype == E4M3 or len({b for _, b in pairs}) < 2:
        return None
    constant = sum(a - b for a, b in pairs) / len(pairs)
    room = [2 * BF16_ROUNDING * max(abs(a), abs(b), abs(constant)) for a, b in pairs]
    # A constant within the roundings of every value is none.
    if all(abs(constant) <= most for most in room):
        return None
    return constant if all(abs(a - b - constant) <= most for (a, b), most in zip(pairs, room, strict=True)) else None


def _resembles(probe: TensorProbe, tensor: StoredTensor) -> bool:
    """Whether it was made of this tensor: half of the samples are its own, or they go with it (correlation over 1/2;
    of n independent ones it is 1/sqrt(n))."""
    pairs = _alike(probe, tensor)
    if len(pairs) < FEWEST:
        return False
    if 2 * sum(a == b for a, b in pairs) >= len(pairs):
        return True
    return all(len(set(side)) > 1 for side in zip(*pairs, strict=True)) and correlation(*zip(*pairs, strict=True)) > 0.5


def _factor(probe: TensorProbe, tensor: StoredTensor) -> float | None:
    for name, form in tensor.forms.items():
        if (name == "codes") != (probe.dtype == E4M3) or probe.samples == form.samples:
            continue  # in other units, or different only where no sample is
        pairs = [(a, b) for a, b in zip(probe.samples, form.samples, strict=False) if b != 0]
        if probe.shape != form.shape or len(pairs) < 2 or form.rms == 0:
            continue
        factor = probe.rms / form.rms
        for signed in (factor, -factor):
            if all(abs(a - signed * b) <= FACTOR_SPREAD * abs(signed * b) for a, b in pairs):
                return signed
    return None
