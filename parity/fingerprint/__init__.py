"""The shape of an error field, read as a class of cause; one detector a file."""

from __future__ import annotations

from parity.fingerprint import causes
from parity.fingerprint.causes import CAUSES, NEVER_WRITTEN, STALE
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.tile_edge import detect_tile_edge

__all__ = ["CAUSES", "NEVER_WRITTEN", "STALE", "Fingerprint", "causes", "detect_tile_edge"]
