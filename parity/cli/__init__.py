"""The command line: one file a command, each a thin layer over a function of the same room."""

from __future__ import annotations

from parity.cli import compare, demo, doctor, fingerprint, graft, ledger, text
from parity.cli.app import app, main

__all__ = ["app", "compare", "demo", "doctor", "fingerprint", "graft", "ledger", "main", "text"]
