"""parity-lab: a numerical parity and debugging laboratory for LLM inference engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.lab import Lab

__all__ = ["Lab"]


def __getattr__(name: str) -> Any:
    # Looked up when asked for: an engine that imports a probe must not load the whole laboratory.
    if name == "Lab":
        from parity.lab import Lab

        return Lab
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
