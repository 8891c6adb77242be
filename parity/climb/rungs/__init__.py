"""The rungs of the ladder in their fixed order, cheapest signal first."""

from __future__ import annotations

from parity.climb.rung import Rung
from parity.climb.rungs.audit import AUDIT
from parity.climb.rungs.fixture import FIXTURE
from parity.climb.rungs.invariances import INVARIANCES
from parity.climb.rungs.prompt import PROMPT
from parity.climb.rungs.proof import PROOF
from parity.climb.rungs.replay import REPLAY
from parity.climb.rungs.sweep import SWEEP
from parity.climb.rungs.symptom import SYMPTOM
from parity.climb.rungs.zoom import ZOOM

RUNGS: tuple[Rung, ...] = (PROMPT, AUDIT, SYMPTOM, INVARIANCES, SWEEP, REPLAY, ZOOM, PROOF, FIXTURE)

__all__ = ["RUNGS"]
