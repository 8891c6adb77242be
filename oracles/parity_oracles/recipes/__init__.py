"""Precision recipes emulated stage by stage, from the format's specification; shares nothing with any engine."""

from __future__ import annotations

from parity_oracles.recipes.arithmetic import ARITHMETICS, ORDERS, Arithmetic, Order

__all__ = ["ARITHMETICS", "ORDERS", "Arithmetic", "Order"]
