"""Planted faults: what one is, where it can be put, which call it is in, and how a folder of them is loaded."""

from parity.faults.draw import Draw
from parity.faults.fault import RUNGS, Fault, Prompt
from parity.faults.loading import (
    LoadedFaults,
    load_faults,
    load_shipped_faults,
    named_fault,
    shipped_fault,
    shipped_faults,
)
from parity.faults.seams import Problem, Seams, check, known_seams
from parity.faults.where import Where, telling, where

__all__ = [
    "RUNGS",
    "Draw",
    "Fault",
    "LoadedFaults",
    "Problem",
    "Prompt",
    "Seams",
    "Where",
    "check",
    "known_seams",
    "load_faults",
    "load_shipped_faults",
    "named_fault",
    "shipped_fault",
    "shipped_faults",
    "telling",
    "where",
]
