"""How well does the lab do on the whole zoo? The campaign of `parity zoo run`, for a machine without its command line.

    PYTHONPATH=.:kernels:oracles python benchmarks/zoo.py --out DIR [--instances 2] [--clean 10] [--jobs 10]
        [--timeout 240] [--within 540] [--resume] [--faults DIR ...] [--only NAME ...]

`DIR`/zoo.json is whole after every case; a run that was ended goes on with --resume.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from parity.zoo import Campaign, collect_faults, run_zoo
from parity.zoo.outcome import Outcome
from parity.zoo.verdicts import FaultRecord, ZooResult


def main() -> None:
    """Run or go on, one line a case, then what was missed and the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--clean", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds of a case")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds of this run; then it stops")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--faults", type=Path, action="append", default=[], help="folder of fault files; repeatable")
    parser.add_argument("--only", action="append", default=[], help="name of a fault; repeatable")
    given = parser.parse_args()
    # Ended from outside, it must take the engines with it: each case is a session of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    catalogue = collect_faults(given.faults, only=given.only)
    campaign = Campaign(
        out=given.out, instances=given.instances, clean=given.clean, jobs=given.jobs, timeout=given.timeout,
        within=given.within, resume=given.resume,
    )  # fmt: skip
    begin = time.monotonic()

    def tell(what: str, label: str, outcome: Outcome | None) -> None:
        said = "" if outcome is None else f" {outcome.status} {_said(outcome)} {outcome.seconds:.0f} s"
        print(f"{time.monotonic() - begin:6.1f} {what}: {label}{said}", flush=True)

    result = run_zoo(catalogue, campaign, tell=tell)
    for line in missed(result):
        print(line)
    for name, value in result.summary().items():
        print(f"{name}: {value}")
    sys.exit(result.exit_code)


def missed(result: ZooResult) -> list[str]:
    """A line for every case that did not come out as it should."""
    lines = [f"{one.name}@{one.instance}: {_wrong(one)}" for one in result.faults if _wrong(one)]
    lines += [f"{one.name}@{one.instance}: control blamed or not ended: {_finding(one)}" for one in result.controls
              if one.blamed or one.status != "done"]  # fmt: skip
    lines += [f"{one.name} {one.prompt}: alarm or not ended: {_finding(one)}" for one in result.clean
              if one.alarm or one.status != "done"]  # fmt: skip
    return lines


def _wrong(one: FaultRecord) -> str:
    lacking = [name for name in ("detected", "localized", "cause_named", "proved") if getattr(one, name) is False]
    return f"not {', '.join(lacking)}: {_finding(one)}" if lacking else ""


def _finding(one: FaultRecord | object) -> str:
    finding, error = getattr(one, "finding", None), getattr(one, "error", "")
    if finding is None:
        return str(error)[-300:]
    return f"{finding.verdict}, {finding.stage} of {list(finding.layers)}, {finding.cause}: {finding.sentence}"[:400]


def _said(outcome: Outcome) -> str:
    return outcome.error[-200:] if outcome.finding is None else outcome.finding.verdict


if __name__ == "__main__":
    main()
