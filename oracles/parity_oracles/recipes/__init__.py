"""Precision recipes emulated stage by stage, from the format's specification; shares nothing with any engine."""

from __future__ import annotations

from parity_oracles.recipes.arithmetic import ARITHMETICS, ORDERS, Arithmetic, Order
from parity_oracles.recipes.purity import assert_pure

__all__ = ["ARITHMETICS", "ORDERS", "Arithmetic", "Order", "assert_pure"]
