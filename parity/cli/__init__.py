"""The command line: one file a command, each a thin layer over a function of the same room."""

from __future__ import annotations

from parity.cli import demo, doctor, ledger
from parity.cli.app import app, main

__all__ = ["app", "demo", "doctor", "ledger", "main"]
