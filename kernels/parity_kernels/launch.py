"""What a kernel launch covers, against what it must cover: launch arithmetic as plain data.

An undersized grid raises nothing on any machine. Every op therefore gets its grid from a function of its own
(`<op>/launch.py`) that returns this record; a planted fault replaces the function, and the lab reads the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    op: name of the op in the engine's table.
    grid: programs along each grid axis.
    block: tile sizes by name (`m`, `n`, `k`).
    covers: for each named extent, how much of it the grid reaches.
    requires: for the same names, how much of it there is.
    """

    op: str
    grid: tuple[int, ...]
    block: Mapping[str, int] = field(default_factory=dict)
    covers: Mapping[str, int] = field(default_factory=dict)
    requires: Mapping[str, int] = field(default_factory=dict)

    @property
    def truncated(self) -> bool:
        """True when some extent is larger than what the grid reaches."""
        return any(self.covers.get(name, 0) < need for name, need in self.requires.items())


LaunchFunction = Callable[..., Launch]


_LISTENER: ContextVar[Callable[[Launch], None] | None] = ContextVar("parity_launch_listener", default=None)


def sized(launch: Launch | LaunchFunction | None, own: LaunchFunction, **extents: Any) -> Launch:
    """The launch a caller gave; else what the caller's function, or the op's own, makes of these extents.

    Whoever listens (`heard_by`) is told: this is the launch whose grid the kernel gets, whatever replaced its function.
    """
    made = launch if isinstance(launch, Launch) else (launch or own)(**extents)
    listener = _LISTENER.get()
    if listener is not None:
        listener(made)
    return made


@contextmanager
def heard_by(listener: Callable[[Launch], None]) -> Iterator[None]:
    """Tell `listener` every launch that an op takes inside the block, in this thread alone."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def ceil_div(numerator: int, denominator: int) -> int:
    """Tiles of size `denominator` needed to cover `numerator` elements."""
    return -(-numerator // denominator)


def next_power_of_2(number: int) -> int:
    """Smallest power of two that is at least `number`, which is at least 1; extents of Triton's tiles are such."""
    return 1 << (number - 1).bit_length()
