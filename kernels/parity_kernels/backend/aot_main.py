"""Does every kernel of the package compile for sm_90, and to what? `TRITON_INTERPRET=0 python -m ...aot_main` says."""

from __future__ import annotations

import json
import sys
import time

import parity_kernels.backend  # noqa: F401
from parity_kernels.backend.aot import all_cases, compile_case, uncovered
from parity_kernels.backend.ptx import probe_report


def main(arguments: list[str]) -> int:
    """Print {"cases": {name: {...}}, "uncovered": [...]} as JSON; return 1 when something complains.

    arguments: names of the cases to compile; none means all, and then kernels without a case are looked for too.
    """
    cases = [case for case in all_cases() if not arguments or case.name in arguments]
    report: dict[str, dict[str, object]] = {}
    for case in cases:
        started = time.perf_counter()
        try:
            compiled = compile_case(case)
            entry: dict[str, object] = {
                "kernel": case.kernel.__name__,
                "complaints": compiled.complaints(),
                "cubin_bytes": len(compiled.cubin),
                "shared_bytes": compiled.shared,
            }
            if case.probes:
                entry["probes"] = probe_report(case)
        except Exception as error:  # one kernel that does not compile must not hide the others
            entry = {"kernel": case.kernel.__name__, "complaints": [f"{type(error).__name__}: {error}"[:2000]]}
        entry["seconds"] = round(time.perf_counter() - started, 3)
        report[case.name] = entry
    missing = [] if arguments else uncovered(cases)
    print(json.dumps({"cases": report, "uncovered": missing}))
    unwell = any(e["complaints"] or not all(dict(e.get("probes", {})).values()) for e in report.values())  # type: ignore[call-overload]
    return 1 if unwell or missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
