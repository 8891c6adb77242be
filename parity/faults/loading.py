"""Which faults are there? Loaded from any folder of Python files, a broken one reported and never in the way."""

from __future__ import annotations

import hashlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from parity.errors import UsageError
from parity.faults.fault import Fault
from parity.faults.seams import Problem, Seams, check, known_seams
from parity.runner import load, registered

GROUP = "parity.faults"
"""Entry points of this group are packages whose modules define FAULTS."""


class LoadedFaults(NamedTuple):
    """The faults that can be used, in order of file and place in it, and why others cannot."""

    faults: tuple[Fault, ...]
    problems: tuple[Problem, ...]

    def named(self, name: str) -> Fault | None:
        """The fault called `name`, None when there is none."""
        return next((fault for fault in self.faults if fault.name == name), None)


def load_faults(folder: Path | str, *, seams: Mapping[str, Seams] | None = None) -> LoadedFaults:
    """The faults of every `*.py` in `folder` (names that begin with `_` are left alone), or of one such file.

    seams: tables to check names against, by family; None takes those of every registered engine.
    A file that does not import or defines no FAULTS, and a fault that `check` objects to or whose name is taken, become
    problems and are skipped. Raises UsageError when there is no such folder or file.
    """
    folder = Path(folder)
    if folder.is_file():
        files = [folder]
    elif folder.is_dir():
        files = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    else:
        raise UsageError(
            place="planted faults",
            expected="a folder of Python files, or one such file",
            found=str(folder),
            next_step="Each file defines FAULTS, a list of parity.faults.Fault; docs/faults.md has an example.",
        )
    return _gather(((path, _module_at(path)) for path in files), known_seams() if seams is None else seams)


def shipped_faults() -> dict[str, Fault]:
    """Every usable fault of the packages registered in the entry-point group `parity.faults`, by name."""
    return {fault.name: fault for fault in load_shipped_faults().faults}


def shipped_fault(name: str) -> Fault:
    """The registered fault called `name`; raises UsageError with the known names otherwise."""
    loaded = load_shipped_faults()
    fault = loaded.named(name)
    if fault is None:
        why = [str(problem) for problem in loaded.problems]
        raise UsageError(
            place="planted faults",
            expected="one of " + (", ".join(sorted(fault.name for fault in loaded.faults)) or "none registered"),
            found=repr(name) + (f"; not usable: {'; '.join(why)}" if why else ""),
            next_step="Choose one of them, or point at a file that defines it: path.py:NAME.",
        )
    return fault


def named_fault(spec: Fault | str, *, hyper: Mapping[str, Any] | None = None) -> Fault:
    """The fault that `spec` means: itself, the name of a shipped one, or `path.py:NAME`; `@SEED` names an instance.

    hyper: the model's hyper-parameters, for instances. Raises UsageError for a name that is not there.
    """
    if isinstance(spec, Fault):
        return spec
    name, _, seed = spec.rpartition("@")
    if not name or not seed.isdigit():
        name, seed = spec, "0"
    path, colon, inside = name.rpartition(":")
    if not colon:
        return shipped_fault(name).instance(int(seed), hyper)
    loaded = load_faults(path)
    fault = loaded.named(inside)
    if fault is None:
        raise UsageError(
            place=path,
            expected=f"a usable fault called {inside}",
            found="; ".join(map(str, loaded.problems)) or ", ".join(one.name for one in loaded.faults) or "none",
            next_step="Correct the name or the file.",
        )
    return fault.instance(int(seed), hyper)


def load_shipped_faults() -> LoadedFaults:
    """The faults of every registered package, and why others of theirs cannot be used."""
    seams = known_seams()
    return _gather(
        (
            (Path(module.name), _imported(f"{package.__name__}.{module.name}"))
            for package in (load(name, group=GROUP) for name in registered(GROUP))
            for module in pkgutil.iter_modules(package.__path__)
            if not module.name.startswith("_")
        ),
        seams,
    )


def _gather(modules: Iterator[tuple[Path, ModuleType | str]], seams: Mapping[str, Seams]) -> LoadedFaults:
    faults: dict[str, Fault] = {}
    problems: list[Problem] = []
    for path, module in modules:
        listed = getattr(module, "FAULTS", None)
        if not isinstance(listed, (list, tuple)):
            said = module if isinstance(module, str) else "defines no list FAULTS"
            problems.append(Problem(said, file=path))
            continue
        for fault in listed:
            if not isinstance(fault, Fault):
                problems.append(Problem(f"FAULTS holds {fault!r}, which is no Fault", file=path))
                continue
            wrong = _objections(fault, seams.get(fault.family) if isinstance(fault.family, str) else None)
            if not wrong and fault.name in faults:
                wrong = (Problem("a fault of this name is there already", fault=fault.name),)
            problems += [Problem(problem.what, fault=problem.fault, file=path) for problem in wrong]
            if not wrong:
                faults[fault.name] = fault
    return LoadedFaults(tuple(faults.values()), tuple(problems))


def _objections(fault: Fault, seams: Seams | None) -> tuple[Problem, ...]:
    try:
        return check(fault, seams)
    except Exception as error:  # fields of any type come from a stranger's file
        return (Problem(f"cannot be read: {type(error).__name__}: {error}", fault=str(fault.name)),)


def _module_at(path: Path) -> ModuleType | str:
    """The module in the file, or why it does not import. Its name cannot meet another's."""
    name = f"parity_fault_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        return "is no Python file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and annotations look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        return f"does not import: {type(error).__name__}: {error}"
    return module


def _imported(name: str) -> ModuleType | str:
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        return f"does not import: {type(error).__name__}: {error}"
