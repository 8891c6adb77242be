"""Interactive bisection: one prompt on the bench, and every experiment a method that gives a record.

lab = Lab(sut="triton:MODEL", oracle="hf:MODEL", prompt="prompt.json", floor="floor.json")
lab.sweep()                     how far off at each depth, error from upstream included
lab.replay()                    where it arises, each stage alone on the engine's own inputs
lab.zoom(0, "moe.gate").by("expert")
lab.graft(0, "moe.gate", donor="replay")
lab.prove(), lab.ledger, lab.report()

What an engine put out is kept on disk, by what determines it, and read back in the next session.
"""

from __future__ import annotations

from parity.lab.grafted import Grafted
from parity.lab.lab import Lab
from parity.lab.ranking import Ranking
from parity.lab.texts import Texts
from parity.lab.zoomed import ZoomedSite

__all__ = ["Grafted", "Lab", "Ranking", "Texts", "ZoomedSite"]
