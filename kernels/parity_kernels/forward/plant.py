"""How does a fault get into an engine? Into the tables and settings of one instance, before it runs."""

from __future__ import annotations

from parity.errors import UsageError
from parity.faults import Fault
from parity_kernels.forward.qwen3_moe import Qwen3Moe


def plant(fault: Fault, engine: Qwen3Moe) -> None:
    """Change `engine` as `fault` says. Raises UsageError for a family, launch or setting this engine does not have."""
    _check(fault, "family", {fault.family}, {engine.config.family})
    _check(fault, "launch", set(fault.launch), set(engine.launches))
    _check(fault, "engine setting", set(fault.engine), {"zeroed_arena"})
    engine.launches.update(fault.launch)
    engine.arena.zeroed = bool(fault.engine.get("zeroed_arena", engine.arena.zeroed))


def _check(fault: Fault, kind: str, asked: set[str], known: set[str]) -> None:
    if asked - known:
        raise UsageError(
            place=f"fault {fault.name}",
            expected=f"a {kind} of this engine: {sorted(known)}",
            found=f"{sorted(asked - known)}",
            next_step="Correct the name, or plant the fault into an engine that has it.",
        )
