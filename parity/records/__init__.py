"""The frozen records that every part of the lab hands to the next: captures, comparisons, verdicts, findings."""

from __future__ import annotations

from parity.records.finding import Finding
from parity.records.floors import HeldOut, Power
from parity.records.places import Site, Slice, site_name, split_site
from parity.records.plain import as_json
from parity.records.runs import Capture, Environment, Lineage, Recipe, Rows, Run
from parity.records.verdicts import Comparison, SliceResult, Summary, Verdict

__all__ = [
    "Capture",
    "Comparison",
    "Environment",
    "Finding",
    "HeldOut",
    "Lineage",
    "Power",
    "Recipe",
    "Rows",
    "Run",
    "Site",
    "Slice",
    "SliceResult",
    "Summary",
    "Verdict",
    "as_json",
    "site_name",
    "split_site",
]
