"""Which code gave a result? A hash of the lab, and of every package that registers runners, seams or faults."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from parity.runner import registered

GROUPS = ("parity.runners", "parity.seams", "parity.faults")


def code_version() -> str:
    """SHA-256 over paths and contents of the packages' Python files; a change of any of them is another version."""
    packages = {target.partition(":")[0].partition(".")[0] for group in GROUPS for target in registered(group).values()}
    digest = hashlib.sha256()
    for package in sorted({"parity", *packages}):
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(place).rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(place)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
