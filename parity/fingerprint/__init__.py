"""The shape of an error field, read as a class of cause; one detector a file."""

from __future__ import annotations

from parity.fingerprint.record import Fingerprint
from parity.fingerprint.tile_edge import NEVER_WRITTEN, STALE, detect_tile_edge

__all__ = ["NEVER_WRITTEN", "STALE", "Fingerprint", "detect_tile_edge"]
