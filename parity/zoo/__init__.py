"""The lab scored on planted faults: each investigated blind, beside negative controls and clean runs."""

from __future__ import annotations

from parity.zoo.blind import BlindFinding, Setup, investigate_blind
from parity.zoo.campaign import Campaign, run_zoo
from parity.zoo.catalogue import Catalogue, Exhibit, collect_faults
from parity.zoo.interval import Rate
from parity.zoo.score import Score, score_finding
from parity.zoo.verdicts import ZooResult

__all__ = [
    "BlindFinding",
    "Campaign",
    "Catalogue",
    "Exhibit",
    "Rate",
    "Score",
    "Setup",
    "ZooResult",
    "collect_faults",
    "investigate_blind",
    "run_zoo",
    "score_finding",
]
