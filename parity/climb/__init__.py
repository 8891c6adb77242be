"""The elimination ladder with all its rungs: one climb from the prompt to the proof, on disk, resumable.

found = investigate(Case("triton:MODEL", "hf:MODEL", request, emulation="recipe:MODEL", floor="floor.json"), "case-1")
found.finding.cause, found.exit_code
Investigation.read("case-1").rung(7)
"""

from __future__ import annotations

from parity.climb.case import Case
from parity.climb.investigation import Investigation, investigate
from parity.climb.rung import Rung, RungResult, Status
from parity.climb.rungs import RUNGS

__all__ = ["RUNGS", "Case", "Investigation", "Rung", "RungResult", "Status", "investigate"]
