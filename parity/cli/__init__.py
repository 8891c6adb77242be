"""The command line: one file a command, each a thin layer over a function of the same room."""

from __future__ import annotations

from parity.cli import (
    audit,
    capture,
    compare,
    decode,
    demo,
    doctor,
    falsify,
    fingerprint,
    floor,
    graft,
    invariants,
    investigate,
    ledger,
    prompt,
    replay,
    report,
    stages,
    text,
    trace,
    zoo,
)
from parity.cli.app import app, main

__all__ = [
    "app",
    "audit",
    "capture",
    "compare",
    "decode",
    "demo",
    "doctor",
    "falsify",
    "fingerprint",
    "floor",
    "graft",
    "invariants",
    "investigate",
    "ledger",
    "main",
    "prompt",
    "replay",
    "report",
    "stages",
    "text",
    "trace",
    "zoo",
]
