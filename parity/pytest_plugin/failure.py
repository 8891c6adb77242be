"""What does a person read when a golden does not hold? The worst slice, by how much, and the command to look closer."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

from parity.compare import harmless
from parity.compare.ranking import slice_words
from parity.golden import Contents, Golden, GoldenCheck, MeasuredFloor
from parity.golden.window import cut_trace, starts_of
from parity.records import Comparison
from parity.trace import save_trace

OTHERS = 8
"""Records listed besides the worst."""


def dump(folder: Path, path: Path, golden: Golden, actual: Contents) -> tuple[Path, Path]:
    """Write what did not hold; returns what `parity compare` takes as oracle and sut.

    Tensors are compared with the golden's own file; of a trace both sides are written as traces, cut alike.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f"{path.stem}-", dir=folder))
    if actual.trace is None or golden.contents.trace is None:
        sut = place / "sut.safetensors"
        save_file(dict(actual.tensors or {}), sut)
        return path, sut
    save_trace(place / "golden", golden.contents.trace)
    now = actual.trace
    save_trace(place / "sut", now if golden.positions is None else cut_trace(now, starts_of(golden.contents.trace)))
    return place / "golden", place / "sut"


def failure_text(path: Path, check: GoldenCheck, sides: tuple[Path, Path], test: str) -> str:
    """The text of a failed check."""
    unhealthy = check.unhealthy
    counts = ", ".join(f"{n} {verdict}" for verdict, n in check.summary.verdicts.items())
    lines = [f"parity golden: {len(unhealthy)} of {len(check.summary.comparisons)} do not hold {path}", f"  {counts}"]
    worst = check.worst
    if worst is not None:
        lines.append(f"  worst: {_words(worst)}")
        lines += [f"  also:  {_words(r)}" for r in [r for r in unhealthy if r is not worst][:OTHERS]]
        hidden = len(unhealthy) - 1 - OTHERS
        lines += [f"  and {hidden} more"] if hidden > 0 else []
    lines.append(f"  floor: {check.floor.label}{_measured_words(check)}")
    if check.elsewhere:
        same = "" if check.measured else "; its floor does not depend on them"
        lines.append(f"  environment, golden -> here: {check.elsewhere}{same}")
    command = ["parity", "compare", "--oracle", str(sides[0]), "--sut", str(sides[1])]
    command += ["--floor", check.floor.argument_of(_dtype(worst, check))]
    if check.measured:
        lines.append("  the command below judges by the derived floor alone, without what was measured")
    lines += [
        f"  investigate: {shlex.join(command)}",
        f"  if the change is meant: pytest {shlex.quote(test)} --parity-update",
    ]
    return "\n".join(lines)


def _words(record: Comparison) -> str:
    name = harmless(record.name)
    if record.over_floor is None or not record.worst:
        return f"{name}: {record.verdict.value}, {harmless(record.reason, longest=200)}"
    return f"{name}: {harmless(slice_words(record), longest=200)}: {record.over_floor:.3g} times its floor"


def _measured_words(check: GoldenCheck) -> str:
    if not check.measured:
        return ""
    runs = " and ".join(f"{one.distinct} distinct of {one.runs} honest runs" for one in _different(check))
    level = sum(1 / (one.distinct + 1) for one in (check.measured[0], check.measured[-1]))
    return f", measured on {runs}: a false alarm at most {100 * level:.2g} % of the time"


def _different(check: GoldenCheck) -> tuple[MeasuredFloor, ...]:
    then, now = check.measured[0], check.measured[-1]
    return (then,) if then == now else (then, now)


def _dtype(worst: Comparison | None, check: GoldenCheck) -> str:
    return "float32" if worst is None else check.dtypes.get(worst.name, "float32")
