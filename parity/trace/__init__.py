"""A trace: all captures of one run and the manifest, in memory or on disk.

    trace = open_trace("runs/sut")                     # lazy: payloads stay in the file until asked for
    for capture in trace.select(stage="moe.gate"):
        print(capture.name, trace.tensor(capture).shape)

The format on disk is specified in `docs/trace-format.md`.
"""

from __future__ import annotations

from parity.trace.disk import DiskTrace, open_trace
from parity.trace.environment import capture_environment
from parity.trace.lineage import hash_weights, lineage_of, write_lineage
from parity.trace.trace import ANY, MemoryTrace, Trace
from parity.trace.verify import Listing, verify_trace
from parity.trace.writer import TraceWriter, save_trace

__all__ = [
    "ANY",
    "DiskTrace",
    "Listing",
    "MemoryTrace",
    "Trace",
    "TraceWriter",
    "capture_environment",
    "hash_weights",
    "lineage_of",
    "open_trace",
    "save_trace",
    "verify_trace",
    "write_lineage",
]
