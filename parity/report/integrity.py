"""Is the folder of an investigation what was written there? And which of its evidence was taken back since?"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath

from parity.climb import Investigation
from parity.climb.rungs import RUNGS
from parity.climb.store import RUNGS as FOLDER
from parity.errors import UsageError
from parity.ladder.ledger import LEDGER, Ledger, Withdrawal


def require_whole(found: Investigation, ledger: Ledger) -> None:
    """Hold every stored result against the hash that the ledger keeps of it.

    Raises UsageError for results without a ledger, and for a result that was altered after its conclusion. A result
    whose conclusion is missing is one that a killed climb has yet to enter: `--resume` does.
    """
    if found.results and not ledger.path.is_file():
        raise UsageError(
            place=str(found.folder),
            expected=f"{LEDGER}, which holds what was predicted and concluded",
            found="results without it",
            next_step="Restore the folder from a copy.",
        )
    files = {rung.number: rung.file for rung in RUNGS}
    for result in found.results:
        path = found.folder / FOLDER / files[result.number]
        kept = [
            digest
            for test in ledger.tests(result.hypothesis)
            for name, digest in test.artifacts.items()
            if PurePath(name).name == path.name
        ]
        if kept and _digest(path) != kept[-1]:
            raise UsageError(
                place=str(path),
                expected=f"the file that was concluded from, SHA-256 {kept[-1][:16]}...",
                found=f"another one, {_digest(path)[:16]}...",
                next_step="It was altered or damaged: restore it, or withdraw its test (`parity ledger reopen`) and "
                "run the rung again with `parity investigate --resume`.",
            )


def withdrawn_rungs(found: Investigation, ledger: Ledger) -> dict[int, str]:
    """Rungs whose evidence no longer counts, with the reason that was entered."""
    gone = ledger.withdrawn()
    reasons = {entry.test: entry.because for entry in ledger.entries if isinstance(entry, Withdrawal)}
    taken = {}
    for result in found.results:
        tests = ledger.tests(result.hypothesis)
        if tests and all(test.id in gone for test in tests):
            last = tests[-1].id
            taken[result.number] = reasons.get(last, f"it rests on evidence that was withdrawn ({last})")
    return taken


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
