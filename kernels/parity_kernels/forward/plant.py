"""How does a fault get into an engine? Into the tables and settings of one instance, before it runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from parity.errors import UsageError
from parity.faults import Fault, check, telling
from parity_kernels.forward.config import ModelConfig
from parity_kernels.forward.ops import SEAMS, SHARED_LAUNCH
from parity_kernels.forward.qwen3_moe import Qwen3Moe


def require_fit(fault: Fault, config: ModelConfig, recipe: str) -> None:
    """Raise UsageError unless this engine, running `config` in `recipe`, has everything that `fault` names or needs."""
    said = [problem.what for problem in check(fault, SEAMS)]
    if fault.family != config.family:
        said.append(f"family {fault.family}, and the engine runs {config.family}")
    has = {**config.hyper(), "recipe": recipe}
    said += [
        f"needs {key} {want!r}, found {has.get(key)!r}" for key, want in fault.needs.items() if has.get(key) != want
    ]
    if said:
        raise UsageError(
            place=f"fault {fault.name}",
            expected="a fault that fits this engine: see parity_kernels.forward.ops and parity.stages",
            found="; ".join(dict.fromkeys(said)),
            next_step="Correct the fault, or plant it into an engine and a model that have what it names.",
        )


def plant(fault: Fault, engine: Qwen3Moe) -> None:
    """Replace the ops, launch functions and settings of `engine` that `fault` names; other instances keep theirs.

    Each replacement is called with `parity.faults.where()` telling the call. Raises UsageError when `wrap` returns no
    function.
    """
    for name, launch in fault.launch.items():
        engine.launches[name] = _told(engine, name, launch)
        for op in SHARED_LAUNCH.get(name, (name,)):
            engine.ops[op] = partial(engine.ops[op], launch=engine.launches[name])
    for name, wrap in fault.wraps().items():
        engine.ops[name] = _told(engine, name, _replacement(fault, name, wrap(engine.ops[name])))
    engine.arena.zeroed = bool(fault.engine.get("zeroed_arena", engine.arena.zeroed))


def _replacement(fault: Fault, name: str, made: Any) -> Callable[..., Any]:
    if not callable(made):
        raise UsageError(
            place=f"fault {fault.name}, wrap of {name}",
            expected="a function of the op's signature",
            found=repr(made),
            next_step="Return the replacement from wrap(op).",
        )
    return made


def _told(engine: Qwen3Moe, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with telling(engine.where(name)):
            return function(*args, **kwargs)

    return call
