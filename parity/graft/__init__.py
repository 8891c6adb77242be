"""Put a tensor, or part of one, from one run into another's forward pass, and see what it does to the symptom."""

from __future__ import annotations

from parity.graft.effect import Effect, effect_on_logits
from parity.graft.select import Selection, select_graft
from parity.graft.transplant import Transplant, transplant

__all__ = ["Effect", "Selection", "Transplant", "effect_on_logits", "select_graft", "transplant"]
