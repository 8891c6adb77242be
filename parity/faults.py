"""What is a planted fault? Data with its truth, found in any module that defines FAULTS."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from parity.errors import UsageError
from parity.records import Site
from parity.runner import load, registered


@dataclass(frozen=True)
class Fault:
    """A defect to plant into one engine instance, with the truth an investigation must name.

    family: model family whose forward pass carries it. summary: one sentence for a person.
    truth: the site; cause: the cause class. control: True for a difference that is no bug, and must not be blamed.
    simulated: True when a correct result is edited instead of the incident's own mechanism at work.
    launch: launch function to use instead, by its name in the engine's launch table.
    engine: settings of the engine instance (`zeroed_arena`).
    """

    name: str
    family: str
    summary: str
    truth: Site | None
    cause: str | None
    control: bool = False
    simulated: bool = False
    launch: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.control == (self.truth is not None):
            raise UsageError(
                place=f"fault {self.name}",
                expected="a truth, or control=True and no truth",
                found=f"control={self.control}, truth={self.truth}",
                next_step="State the Site an investigation must name, or mark the fault as a negative control.",
            )


def shipped_faults() -> dict[str, Fault]:
    """Every fault of the packages registered in the entry-point group `parity.faults`, by name."""
    found: dict[str, Fault] = {}
    for name in registered("parity.faults"):
        package = load(name, group="parity.faults")
        for module in pkgutil.iter_modules(package.__path__):
            for fault in getattr(import_module(f"{package.__name__}.{module.name}"), "FAULTS", ()):
                found[fault.name] = fault
    return found


def shipped_fault(name: str) -> Fault:
    """The registered fault called `name`; raises UsageError with the known names otherwise."""
    known = shipped_faults()
    if name not in known:
        raise UsageError(
            place="planted faults",
            expected="one of " + (", ".join(sorted(known)) or "none registered"),
            found=repr(name),
            next_step="Choose one of them, or point at a folder that defines it.",
        )
    return known[name]
