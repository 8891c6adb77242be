"""A trace: all captures of one run and the manifest, in memory or on disk."""

from __future__ import annotations

from parity.trace.trace import ANY, MemoryTrace, Trace

__all__ = ["ANY", "MemoryTrace", "Trace"]
