"""The tap: named points of a forward pass where a tensor can be read or replaced.

recorder = Recorder(CapturePlan(stages=("moe.*",)), run)
with recorder:
    probe = recorder.step(phase="prefill", step=0, chunk=0, rows=rows, last_position=[len(ids) - 1])
    q = probe("attn.q", q, layer=3)
trace = recorder.trace()
"""

from __future__ import annotations

from parity.probes.off import OFF, Probe
from parity.probes.plan import admits, check_plan, plan_from_environment
from parity.probes.recorder import Recorder
from parity.probes.session import Session, active, capture, open_recorder
from parity.probes.watch import Tap, Watch, watch
from parity.runner import CapturePlan, Graft

__all__ = [
    "OFF",
    "CapturePlan",
    "Graft",
    "Probe",
    "Recorder",
    "Session",
    "Tap",
    "Watch",
    "active",
    "admits",
    "capture",
    "check_plan",
    "open_recorder",
    "plan_from_environment",
    "watch",
]
