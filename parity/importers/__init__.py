"""Tensors that somebody else dumped, as a trace: folders of `.npy`, or raw `.bin` with a JSON sidecar each.

    import_dump(Path("dump"), read_map(Path("map.json")), Path("trace"))

The map is data: how files are called, which stage each is, how its axes lie, and what run it was. docs/importing.md.
"""

from __future__ import annotations

from parity.importers.dump import Imported, import_dump
from parity.importers.stagemap import Placement, StageMap, read_map

__all__ = ["Imported", "Placement", "StageMap", "import_dump", "read_map"]
