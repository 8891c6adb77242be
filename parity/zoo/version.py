"""Which code gave a result? A hash of the lab, and of every package that registers runners, seams or faults."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from parity.runner import registered

GROUPS = ("parity.runners", "parity.seams", "parity.faults")
SOURCES = frozenset({".py", ".c", ".h", ".cpp", ".cu", ".cuh"})


def code_version(*others: str) -> str:
    """SHA-256 over paths and contents of the packages' source files; a change of any of them is another version.

    others: top-level packages that count besides, registered or not; of a module that is none, its file.
    """
    packages = {target.partition(":")[0].partition(".")[0] for group in GROUPS for target in registered(group).values()}
    digest = hashlib.sha256()
    for package in sorted({"parity", *packages, *others}):
        try:
            spec = find_spec(package)
        except ValueError:  # a script: it has no spec
            spec = None
        if spec is None:
            continue
        for place in spec.submodule_search_locations or ():
            for path in sorted(path for path in Path(place).rglob("*") if path.suffix in SOURCES):
                digest.update(f"{package}/{path.relative_to(place)}\0".encode() + path.read_bytes())
        if spec.submodule_search_locations is None and spec.origin and Path(spec.origin).is_file():
            digest.update(f"{package}\0".encode() + Path(spec.origin).read_bytes())
    return digest.hexdigest()[:16]
