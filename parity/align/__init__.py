"""Make two captures comparable: rows by (request, absolute position), expert rows by (token, expert)."""

from __future__ import annotations

from parity.align.pairing import pair_requests, pair_rows
from parity.align.routing import Routing, route
from parity.align.rows import Aligned, align

__all__ = ["Aligned", "Routing", "align", "pair_requests", "pair_rows", "route"]
