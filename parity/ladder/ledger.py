"""What was supposed, predicted, measured and concluded, in which order? An append-only file, refuted claims included.

One JSON line an entry, chained like a trace's manifest, so that a lost or altered line is seen and a killed writer
leaves everything before its last line. A hypothesis states its prediction before any test of it can be entered.
Evidence can be withdrawn later; every conclusion that rested on it, directly or through other conclusions, is then open
again, while all lines stay where they are.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from parity.display import Displayed
from parity.errors import TraceError, UsageError
from parity.trace.journal import TORN, encode_line, read_lines

LEDGER = "ledger.jsonl"


class Standing(StrEnum):
    """Where a hypothesis stands. OPEN: untested, or what it rested on was withdrawn."""

    OPEN = "open"
    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Hypothesis:
    """A claim with its prediction. id: `H1`, `H2`, ...; raised_by: a rung's name or a person's."""

    id: str
    claim: str
    prediction: str
    raised_by: str
    time: str


@dataclass(frozen=True)
class Test:
    """What came of testing a hypothesis. id: `T1`, ...; command: what to run to see it again.

    numbers: measured, by name. artifacts: SHA-256 by path. rules_out, leaves_open: in words. rests_on: ids of earlier
    tests whose numbers this conclusion needs.
    """

    id: str
    hypothesis: str
    verdict: Standing
    command: str
    numbers: Mapping[str, Any]
    artifacts: Mapping[str, str]
    rules_out: tuple[str, ...]
    leaves_open: tuple[str, ...]
    rests_on: tuple[str, ...]
    time: str

    __test__ = False  # not a pytest class


@dataclass(frozen=True)
class Withdrawal:
    """A test whose evidence no longer counts, and why."""

    test: str
    because: str
    time: str


Entry = Hypothesis | Test | Withdrawal
_KINDS = {"hypothesis": Hypothesis, "test": Test, "withdrawal": Withdrawal}


@dataclass
class Ledger(Displayed):
    """The ledger in a folder. Reading it needs no lock; one process writes at a time.

    Raises UsageError for a file that was altered, or is none.
    """

    folder: Path
    entries: list[Entry] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.entries = list(_read(self.path)) if self.path.exists() else []

    def __repr__(self) -> str:
        stands = [f"{h.id} {self.standing(h.id).value}" for h in self.hypotheses]
        return f"Ledger({self.path}: {', '.join(stands) or 'no hypothesis yet'})"

    @property
    def path(self) -> Path:
        return self.folder / LEDGER

    @property
    def hypotheses(self) -> list[Hypothesis]:
        return [entry for entry in self.entries if isinstance(entry, Hypothesis)]

    def tests(self, hypothesis: str | None = None) -> list[Test]:
        """Tests in order, of one hypothesis or of all."""
        tests = [entry for entry in self.entries if isinstance(entry, Test)]
        return [test for test in tests if hypothesis in (None, test.hypothesis)]

    def suppose(self, claim: str, *, prediction: str, raised_by: str) -> Hypothesis:
        """Enter a hypothesis and what it predicts; UsageError for an empty claim or prediction."""
        if not claim.strip() or not prediction.strip():
            raise UsageError(
                place="ledger",
                expected="a claim and a prediction that a test can contradict",
                found=f"claim {claim!r}, prediction {prediction!r}",
                next_step="State what will be measured, and what it will be if the claim is true.",
            )
        number = len(self.hypotheses) + 1
        return self._append(Hypothesis(f"H{number}", claim, prediction, raised_by, _now()))

    def conclude(
        self,
        hypothesis: str,
        verdict: Standing | str,
        *,
        command: str,
        numbers: Mapping[str, Any],
        artifacts: Sequence[Path] = (),
        rules_out: Sequence[str] = (),
        leaves_open: Sequence[str] = (),
        rests_on: Sequence[str] = (),
    ) -> Test:
        """Enter a test's result. Raises UsageError for a hypothesis or test that is not in the ledger, for an artifact
        that cannot be read, and for a verdict without a number behind it."""
        self._known(hypothesis, [h.id for h in self.hypotheses], "hypothesis")
        for other in rests_on:
            self._known(other, [test.id for test in self.tests()], "test")
        found = Standing(verdict) if verdict in set(Standing) else None
        if found in (None, Standing.OPEN) or (not numbers and found is not Standing.INCONCLUSIVE):
            raise UsageError(
                place=f"ledger, test of {hypothesis}",
                expected="supported or refuted with the numbers that say so, or inconclusive",
                found=f"{verdict} with {len(numbers)} numbers",
                next_step="Enter what was measured; a verdict without a number is an opinion.",
            )
        hashes = {str(path): _sha256(path) for path in artifacts}
        number = len(self.tests()) + 1
        return self._append(
            Test(
                f"T{number}", hypothesis, found, command, dict(numbers), hashes, tuple(rules_out), tuple(leaves_open),
                tuple(rests_on), _now(),
            )
        )  # fmt: skip

    def withdraw(self, test: str, *, because: str) -> tuple[str, ...]:
        """Take a test's evidence back; returns the ids of the hypotheses that are open again for it."""
        self._known(test, [known.id for known in self.tests()], "test")
        before = {h.id: self.standing(h.id) for h in self.hypotheses}
        self._append(Withdrawal(test, because, _now()))
        return tuple(id for id, was in before.items() if self.standing(id) is Standing.OPEN is not was)

    def withdrawn(self) -> set[str]:
        """Tests that no longer count: withdrawn, or resting on one that was."""
        gone = {entry.test for entry in self.entries if isinstance(entry, Withdrawal)}
        for test in self.tests():  # in order: a test can only rest on earlier ones
            if gone & set(test.rests_on):
                gone.add(test.id)
        return gone

    def standing(self, hypothesis: str) -> Standing:
        """Verdict of the hypothesis' latest test that still counts; OPEN without one."""
        gone = self.withdrawn()
        valid = [test for test in self.tests(hypothesis) if test.id not in gone]
        return valid[-1].verdict if valid else Standing.OPEN

    def _known(self, id: str, known: Sequence[str], kind: str) -> None:
        if id not in known:
            raise UsageError(
                place=f"ledger {self.path}",
                expected=f"a {kind} of this ledger: {', '.join(known) or 'none yet'}",
                found=repr(id),
                next_step="Enter it first, or correct the id.",
            )

    def _append(self, entry: Any) -> Any:
        """One line more, on the disk before this returns."""
        kind = next(name for name, cls in _KINDS.items() if isinstance(entry, cls))
        entry = _KINDS[kind](**{name: _encodable(value) for name, value in _fields(entry).items()})
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            file.seek(0)
            before = file.read()
            whole = before[: before.rfind(b"\n") + 1]
            if whole != before:  # a line that a crash cut off was never an entry
                file.truncate(len(whole))
            file.write(encode_line({"kind": kind, **_fields(entry)}, zlib.crc32(whole)))
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)
        return entry


def _fields(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__dataclass_fields__}


def _encodable(value: Any) -> Any:
    """The value with halves of surrogate pairs, which no reader takes, spelled out; bytes that are no UTF-8 become such
    on the command line."""
    if isinstance(value, str) and not isinstance(value, StrEnum):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_encodable(one) for one in value)
    return value


def _read(path: Path) -> Iterator[Entry]:
    try:
        for place, line in read_lines(path):
            if line is TORN:
                return
            yield _entry(place, dict(line))
    except TraceError as error:
        raise UsageError(
            place=error.place,
            expected=error.expected,
            found=error.found,
            next_step="The ledger was altered or damaged; restore it from a copy. Lines are only ever appended.",
        ) from error


def _entry(place: str, line: dict[str, Any]) -> Entry:
    line.pop("chain", None)
    kind = _KINDS.get(line.pop("kind", None))
    names = set() if kind is None else set(kind.__dataclass_fields__)
    if kind is None or set(line) != names:
        raise TraceError(
            place=place,
            expected="an entry of kind " + ", ".join(_KINDS) + " with its fields",
            found=f"fields {sorted(line)}",
            next_step="",
        )
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in line.items()}
    if kind is Test:
        values["verdict"] = Standing(values["verdict"])
    return kind(**values)


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(
            place=f"artifact {path}",
            expected="a file that can be read",
            found=error.strerror or str(error),
            next_step="Name the file that the test produced.",
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
