"""`python -m parity.cli`, for a checkout that is not installed."""

from __future__ import annotations

from parity.cli.app import main

main()
