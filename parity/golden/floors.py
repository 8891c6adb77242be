"""By which floor is a golden judged, and by how many of them has something moved?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from parity.compare import compare_traces
from parity.compare.files import compare_stored
from parity.compare.tensorfile import StoredTensor
from parity.errors import GoldenError
from parity.floor import DerivedFloor, Floor, NoiseFloor, derive_floor
from parity.floor.derived import PREFIX
from parity.golden.contents import Contents, spelled
from parity.golden.gates import Limits
from parity.metrics.rounding import FORMATS
from parity.records import Capture, Comparison, Summary, Verdict
from parity.trace import Trace

OWN = "derived:own dtype"
"""One rounding to the dtype that a tensor is stored in, each tensor by its own."""

Gate = Callable[[DerivedFloor, str, frozenset[str]], DerivedFloor]
"""Another floor in the place of a derived one, told the tensor's name; for a trace an empty one, and which sites are
judged by this floor: those of its dtype."""


@dataclass(frozen=True)
class GoldenFloor:
    """A floor as a golden names it. floor: None: each tensor's own dtype. argument: for `parity compare --floor`."""

    label: str
    floor: NoiseFloor | None = None
    argument: str | None = None

    def of(self, dtype: str) -> NoiseFloor:
        """The floor of a tensor of that dtype (as torch spells it); of integers any does: they are exact."""
        if self.floor is not None:
            return self.floor
        return derive_floor(dtype if dtype in FORMATS else "float32")

    def argument_of(self, dtype: str) -> str:
        """What follows `--floor` in a command that looks at a tensor of that dtype."""
        if self.argument is not None:
            return self.argument
        return f"{PREFIX}{dtype if dtype in FORMATS else 'float32'}"


def golden_floor(floor: str | Path | NoiseFloor | None) -> GoldenFloor:
    """None: each tensor's own dtype, one rounding. `derived:DTYPE[:N]`; or a calibrated floor or its file, for traces.

    Raises GoldenError for a calibrated floor that is no file, whose command could not be written down.
    """
    if floor is None:
        return GoldenFloor(OWN)
    if isinstance(floor, DerivedFloor) or (isinstance(floor, str) and floor.startswith(PREFIX)):
        derived = derive_floor(floor) if isinstance(floor, str) else floor
        return GoldenFloor(derived.label, derived, derived.label)
    if isinstance(floor, Floor):
        raise GoldenError(
            place="floor",
            expected="a calibrated floor's file, so that the golden can name it and a command can use it",
            found=f"a floor of recipe {floor.recipe.name} in memory",
            next_step="Save it (Floor.save) and hand over the path.",
        )
    path = Path(floor)
    opened = Floor.load(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return GoldenFloor(f"calibrated:{opened.recipe.name}:{digest}", opened, str(path))


def compare_contents(
    *, golden: Contents, actual: Contents, floor: GoldenFloor, same_dtype: bool = True, gate: Gate | None = None
) -> Summary:
    """One record for each tensor or site of either side.

    same_dtype: another dtype is a finding, whatever its values. gate: put around every derived floor.

    Raises GoldenError for a trace and tensors, or a calibrated floor of tensors; TraceError for other token ids.
    """
    if golden.trace is not None and actual.trace is not None:
        return _compare_traces(golden.trace, actual.trace, floor, same_dtype, gate)
    if golden.tensors is None or actual.tensors is None:
        raise GoldenError(
            place="golden",
            expected=f"{golden.kind}, as was stored",
            found=actual.kind,
            next_step="Hand over the same kind of thing, or rewrite the golden with --parity-update.",
        )
    if isinstance(floor.floor, Floor):
        raise GoldenError(
            place=f"floor {floor.label}",
            expected="a trace: a calibrated floor belongs to a recipe and its stages",
            found="plain tensors",
            next_step="Leave the floor out, name derived:DTYPE[:N], or check a trace.",
        )

    def own(tensor: StoredTensor) -> DerivedFloor | None:
        found = floor.of(_torch_name(tensor))
        if not isinstance(found, DerivedFloor):
            return None
        return found if gate is None else gate(found, tensor.name, frozenset())

    a, b = stored_form(golden.tensors), stored_form(actual.tensors)
    summary = compare_stored(oracle=a, sut=b, floor=own)
    other = {name for name in {*a} & {*b} if a[name].dtype != b[name].dtype} if same_dtype else set()
    words = {name: f"golden {a[name].dtype}, now {b[name].dtype}" for name in other}
    records = tuple(_refuse_dtype(r, words.get(r.name)) for r in summary.comparisons)
    return Summary(summary.declared, records, summary.unobservable)


def stored_form(tensors: Mapping[str, torch.Tensor]) -> dict[str, StoredTensor]:
    """CPU tensors as a comparison of files takes them; nothing is copied."""
    found = {}
    for name, tensor in tensors.items():
        raw = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")
        found[name] = StoredTensor(name, spelled(tensor.dtype), tuple(tensor.shape), raw)
    return found


def refuse_blind(summary: Summary, limits: Limits) -> Summary:
    """Records that were cleared by a limit under which a tensor of zeros would pass become NO_POWER."""
    records = tuple(_sighted(record, limits) for record in summary.comparisons)
    return Summary(summary.declared, records, summary.unobservable)


def _sighted(record: Comparison, limits: Limits) -> Comparison:
    own = limits.get(f"{record.name} {record.phase}".strip(), {})
    wider = max(1.0, own.get("tensor rel_l2", 1.0), own.get("tensor slope", 1.0))
    if record.verdict is not Verdict.WITHIN_FLOOR or wider * record.whole.get("scale_seen", 0.0) < 1:
        return record
    reason = f"the measured floor would let a tensor of zeros pass: {wider:.3g} derived floors"
    return replace(record, verdict=Verdict.NO_POWER, reason=reason)


def _compare_traces(golden: Trace, actual: Trace, floor: GoldenFloor, same_dtype: bool, gate: Gate | None) -> Summary:
    def gated(dtype: str) -> NoiseFloor:
        found = floor.of(dtype)
        sites = frozenset(c.name for c in golden.captures if floor.floor is not None or c.dtype == dtype)
        return gate(found, "", sites) if gate is not None and isinstance(found, DerivedFloor) else found

    dtypes = {(c.layer, c.stage): c.dtype for c in golden.captures}
    now = {(c.layer, c.stage): c.dtype for c in actual.captures}
    names = sorted({d for d in dtypes.values() if d in FORMATS}) if floor.floor is None else ["any"]
    by_dtype = {d: compare_traces(oracle=golden, sut=actual, floor=gated(d)) for d in names or ["float32"]}
    default = next(iter(by_dtype.values()))
    records = []
    for at, record in enumerate(default.comparisons):
        site = (record.layer, record.stage)
        record = by_dtype.get(dtypes.get(site, ""), default).comparisons[at]
        changed = same_dtype and site in now and dtypes.get(site, now[site]) != now[site]
        records.append(_refuse_dtype(record, f"golden {dtypes[site]}, now {now[site]}" if changed else None))
    hidden = default.unobservable
    gone = {(c.name, c.phase): _not_shown_now(c, hidden[c.stage]) for c in golden.captures if c.stage in hidden}
    records += gone.values()
    return Summary(tuple(record.name for record in records), tuple(records))


def _not_shown_now(held: Capture, why: str) -> Comparison:
    """The golden holds it: that an engine says it cannot show it any more is a loss, whatever the reason."""
    reason = f"the golden holds it, and the engine does not show it now: {why}"
    return Comparison(held.name, held.layer, held.stage, held.phase, Verdict.MISSING_IN_SUT, reason=reason)


def _refuse_dtype(record: Comparison, words: str | None) -> Comparison:
    if words is None or record.verdict is Verdict.SHAPE_MISMATCH:
        return record
    return replace(record, verdict=Verdict.DTYPE_MISMATCH, reason=f"another dtype: {words}", over_floor=None)


def _torch_name(tensor: StoredTensor) -> str:
    if tensor.known is torch.complex64:
        return "float32"
    return str(tensor.known).removeprefix("torch.")
