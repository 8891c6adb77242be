"""A trace: all captures of one run and the manifest, in memory or on disk.

    trace = open_trace("runs/sut")                     # lazy: payloads stay in the file until asked for
    for capture in trace.select(stage="moe.gate"):
        print(capture.name, trace.tensor(capture).shape)

For looking at a trace on disk, without holding more of it than one block of one payload:

    list_captures(folder)     a ListedCapture each: name, step, dtype, shape, rows, bytes; payloads are not read
    trace_statistics(folder)  a CaptureStatistics each, one at a time: min, max, mean, std, l2, nonfinite, zeros
    verify_trace(folder)      a Listing: intact, missing, what was running when it stopped; TraceError for damage,
                              or with strict=False the damage listed
    diff_traces(a, b)         a TraceDifference: the run's fields and each capture, bit by bit

The format on disk is specified in `docs/trace-format.md`.
"""

from __future__ import annotations

from parity.trace.catalogue import ListedCapture, list_captures
from parity.trace.difference import CaptureDifference, FieldDifference, TraceDifference, diff_traces
from parity.trace.disk import DiskTrace, open_trace
from parity.trace.environment import capture_environment
from parity.trace.failure import DiskError, FolderError, TakenError
from parity.trace.lineage import hash_weights, lineage_of, write_lineage
from parity.trace.summaries import CaptureStatistics, capture_statistics, trace_statistics
from parity.trace.trace import ANY, MemoryTrace, Trace
from parity.trace.verify import Listing, verify_trace
from parity.trace.writer import TraceWriter, save_trace

__all__ = [
    "ANY",
    "CaptureDifference",
    "CaptureStatistics",
    "DiskError",
    "DiskTrace",
    "FieldDifference",
    "FolderError",
    "ListedCapture",
    "Listing",
    "MemoryTrace",
    "TakenError",
    "Trace",
    "TraceDifference",
    "TraceWriter",
    "capture_environment",
    "capture_statistics",
    "diff_traces",
    "hash_weights",
    "lineage_of",
    "list_captures",
    "open_trace",
    "save_trace",
    "trace_statistics",
    "verify_trace",
    "write_lineage",
]
