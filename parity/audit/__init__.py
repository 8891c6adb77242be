"""Does an engine run with its checkpoint's values, read each of its tensors once, and consume every scale?"""

from __future__ import annotations

from parity.audit.bindings import judge_bindings
from parity.audit.names import NAMES, canonical
from parity.audit.record import NOT_STATED, Audit, AuditCheck, AuditFinding, HyperRow, WeightDistance
from parity.audit.reference import judge_distances
from parity.audit.run import audit, audit_apart
from parity.audit.tensors import (
    Binder,
    BindingReport,
    Holder,
    Observed,
    Piece,
    StoredTensor,
    TensorProbe,
    probe_tensor,
    report_parameters,
)
from parity.audit.values import judge_recipe, judge_values

__all__ = [
    "NAMES",
    "NOT_STATED",
    "Audit",
    "AuditCheck",
    "AuditFinding",
    "Binder",
    "BindingReport",
    "Holder",
    "HyperRow",
    "Observed",
    "Piece",
    "StoredTensor",
    "TensorProbe",
    "WeightDistance",
    "audit",
    "audit_apart",
    "canonical",
    "judge_bindings",
    "judge_distances",
    "judge_recipe",
    "judge_values",
    "probe_tensor",
    "report_parameters",
]
