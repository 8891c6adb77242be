"""A zoo without an engine: stub, floor, prompts, and a folder of faults of every kind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

FAULT_FILE = """
from parity.faults import Fault
from parity.records import Site, Slice

def fault(name, **more):
    given = dict(truth=Site((1,), "moe.up", Slice(experts=(3,))), cause="constant ratio")
    given.update(more)
    return Fault(name=name, family="qwen3_moe", summary=name, op="router", wrap=lambda op: op, **given)

FAULTS = [
    fault("found_right"),
    fault("overlooked"),
    fault("dies"),
    fault("blamed_control", truth=None, cause=None, control=True),
    fault("silent_control", truth=None, cause=None, control=True, claim="it is noise"),
    fault("homeless", needs={"norm_topk_prob": False}),
    fault("bad_stage", truth=Site((1,), "moe.upp")),
]
"""


@pytest.fixture
def stub_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `faults`, `prompts` and `floors` for the stub engine."""
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    from zoo_stub import RECIPE

    from parity.floor import Floor
    from parity.records import Lineage

    for name in ("faults", "prompts", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "faults" / "all.py").write_text(FAULT_FILE)
    (tmp_path / "faults" / "broken.py").write_text("import nothing_of_that_name\n")
    for number in range(4):
        content = {"name": f"text-{number}", "source": f"somewhere 1.0, doc/{number}.py", "ids": [number] * 60}
        (tmp_path / "prompts" / f"{number}.json").write_text(json.dumps(content))
    floor = Floor(RECIPE, Lineage("stub-weights"), ("r",), {}, {}, documents=("doc/0.py#text-0",))
    floor.save(tmp_path / "floors" / "stub.json")
    return tmp_path
