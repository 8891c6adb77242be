"""Faults found without an oracle: what must hold of an engine whatever the right answer is."""

from __future__ import annotations

from parity.invariance.coverage import Coverage, launch_coverage

__all__ = ["Coverage", "launch_coverage"]
