"""Faults found without an oracle: what must hold of an engine whatever the right answer is.

examination = run_checks(runner, request)
check_poison(Subject(runner, request))
"""

from __future__ import annotations

from parity.invariance.checks import CHECKS, Examination, run_checks
from parity.invariance.coverage import Coverage, launch_coverage
from parity.invariance.differ import Agreement, Difference, agree
from parity.invariance.feeding import check_batch, check_causality, check_chunks, check_decode, check_padding
from parity.invariance.launches import check_coverage
from parity.invariance.norm_scale import check_norm_scale
from parity.invariance.record import Invariance, Outcome
from parity.invariance.relabelling import check_experts, check_heads
from parity.invariance.repeat import check_history, check_poison, check_probes, check_repeat
from parity.invariance.sisters import check_variants
from parity.invariance.subject import Subject
from parity.invariance.sums import check_sums, sum_rules

__all__ = [
    "CHECKS",
    "Agreement",
    "Coverage",
    "Difference",
    "Examination",
    "Invariance",
    "Outcome",
    "Subject",
    "agree",
    "check_batch",
    "check_causality",
    "check_chunks",
    "check_coverage",
    "check_decode",
    "check_experts",
    "check_heads",
    "check_history",
    "check_norm_scale",
    "check_padding",
    "check_poison",
    "check_probes",
    "check_repeat",
    "check_sums",
    "check_variants",
    "launch_coverage",
    "run_checks",
    "sum_rules",
]
