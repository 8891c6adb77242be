"""The shape of an error field, read as a class of cause; one detector a file."""

from __future__ import annotations

from parity.fingerprint import causes
from parity.fingerprint.causes import CAUSES, NEVER_WRITTEN, STALE
from parity.fingerprint.field import ErrorField
from parity.fingerprint.read import DETECTORS, Detector, read_fingerprints
from parity.fingerprint.record import Fingerprint
from parity.fingerprint.reduced import ReducedField, reduce_field
from parity.fingerprint.sources import field_of_tensors, field_of_traces, shared_sites
from parity.fingerprint.tile_edge import detect_tile_edge

__all__ = [
    "CAUSES",
    "DETECTORS",
    "NEVER_WRITTEN",
    "STALE",
    "Detector",
    "ErrorField",
    "Fingerprint",
    "ReducedField",
    "causes",
    "detect_tile_edge",
    "field_of_tensors",
    "field_of_traces",
    "read_fingerprints",
    "reduce_field",
    "shared_sites",
]
