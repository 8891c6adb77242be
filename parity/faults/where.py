"""Which call is this? What the code of a planted fault may ask while the engine calls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from parity.errors import UsageError


@dataclass(frozen=True)
class Where:
    """The call in progress.

    op: name in the engine's table of ops or launches; `sampler` or `prompt` for those.
    role: what the call computes, by stage where there is one (`attn.q`, `moe.gate_up`): tells calls of one op apart.
    layer: absolute, None outside the layers. phase: `prefill` or `decode`; step: 0 for prefill, then 1, 2, ...
    chunk: number of the prefill chunk. traced: whether probes are on in this run.
    ids: sampler calls only, the ids fed and chosen so far; prompt: how many of them the caller gave.
    arena: the engine's buffers, one object an engine instance; None where it has none.
    """

    op: str
    role: str | None = None
    layer: int | None = None
    phase: str = "prefill"
    step: int = 0
    chunk: int = 0
    traced: bool = False
    ids: tuple[int, ...] = ()
    prompt: int = 0
    arena: Any = None


_NOW: ContextVar[Where | None] = ContextVar("parity_fault_where", default=None)


def where() -> Where:
    """The call in progress, inside a replaced op, launch function, sampler or prompt; UsageError anywhere else."""
    now = _NOW.get()
    if now is None:
        raise UsageError(
            place="parity.faults.where",
            expected="to be asked inside a call that an engine makes to a planted fault",
            found="no such call in progress",
            next_step="Ask in the replacement that wrap(op) returns, not in wrap itself or at import.",
        )
    return now


@contextmanager
def telling(now: Where) -> Iterator[None]:
    """For engines: `where()` answers `now` inside the block, in this thread alone."""
    token = _NOW.set(now)
    try:
        yield
    finally:
        _NOW.reset(token)
