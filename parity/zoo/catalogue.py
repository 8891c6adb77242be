"""Which faults does the zoo hold? Shipped ones or those of folders, each with where it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.errors import UsageError
from parity.faults import Fault, Problem, check, known_seams, load_faults, load_shipped_faults


@dataclass(frozen=True)
class Exhibit:
    """One fault and how an engine is told to plant it. file: None for a shipped one."""

    fault: Fault
    file: Path | None = None

    def spec(self, seed: int) -> str:
        """`NAME@SEED` or `path.py:NAME@SEED`, as `open_runner(fault=...)` takes it."""
        return f"{self.fault.name}@{seed}" if self.file is None else f"{self.file}:{self.fault.name}@{seed}"

    def file_hash(self) -> str | None:
        """Of the file's content; None for a shipped one, which is part of the code."""
        return None if self.file is None else hashlib.sha256(self.file.read_bytes()).hexdigest()

    def instance(self, seed: int, hyper: Mapping[str, Any]) -> Fault | Problem:
        """The instance of that seed in a model of those hyper-parameters, or why there is none."""
        try:
            fault = self.fault.instance(seed, hyper)
            seams = known_seams().get(fault.family)
            wrong = check(fault, seams) if fault is not self.fault else ()
        except Exception as error:  # a stranger's function
            return Problem(f"instance {seed} fails: {type(error).__name__}: {error}", self.fault.name, self.file)
        return Problem(f"instance {seed}: {wrong[0].what}", self.fault.name, self.file) if wrong else fault


@dataclass(frozen=True)
class Catalogue:
    """The faults to investigate, and files or faults that cannot be used."""

    exhibits: tuple[Exhibit, ...]
    problems: tuple[Problem, ...]


def collect_faults(
    folders: Sequence[Path] = (),
    *,
    shipped: bool | None = None,
    family: str | None = None,
    only: Iterable[str] = (),
) -> Catalogue:
    """The faults of `folders` (or of single files), or the shipped ones where no folder is named.

    shipped: the shipped ones besides those of the folders. family: only faults of that model family. only: only faults
    of these names. Raises UsageError for a folder or a name that is not there.
    """
    exhibits: list[Exhibit] = []
    problems: list[Problem] = []
    if shipped or (shipped is None and not folders):
        loaded = load_shipped_faults()
        exhibits += [Exhibit(fault) for fault in loaded.faults]
        problems += loaded.problems
    seams = known_seams() if folders else {}
    for folder in folders:
        files = sorted(folder.glob("*.py")) if folder.is_dir() else [folder]
        for file in (path.resolve() for path in files if not path.name.startswith("_")):
            loaded = load_faults(file, seams=seams)
            problems += loaded.problems
            for fault in loaded.faults:
                if any(other.fault.name == fault.name for other in exhibits):
                    problems.append(Problem("a fault of this name is there already", fault.name, file))
                else:
                    exhibits.append(Exhibit(fault, file))
    wanted = set(only)
    unknown = wanted - {one.fault.name for one in exhibits} - {problem.fault for problem in problems}
    if unknown:
        raise UsageError(
            place="zoo, --only",
            expected="names among " + (", ".join(one.fault.name for one in exhibits) or "no usable fault at all"),
            found=", ".join(sorted(unknown)),
            next_step="; ".join(
                ["`parity zoo list` shows the names; --faults names a folder of others", *map(str, problems)]
            ),
        )
    chosen = [
        one for one in exhibits if family in (None, one.fault.family) and (not wanted or one.fault.name in wanted)
    ]
    return Catalogue(tuple(chosen), tuple(problems))
