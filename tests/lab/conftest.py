"""A lab on the random model: opened with a quick engine, an exact oracle and a cache of the test's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity import Lab
from parity.climb.counted import Counted
from parity.ladder import Opening, calibrate_apart
from parity.runner import open_runner

sys.path.insert(0, str(Path(__file__).parent))
from lab_engine import Edit, Planted, request_of


@pytest.fixture(scope="session")
def floor_file(bf16_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = f"recipe:{bf16_model}"
    floor = calibrate_apart(
        emulations=[Opening(spec, {"order": order}) for order in range(2)],
        oracle=Opening(spec, {"recipe": "fp32"}),
        requests=[request_of(100 + n, length) for n, length in enumerate((60, 50, 45, 55))],
    )
    path = tmp_path_factory.mktemp("floor") / "bf16.json"
    floor.save(path)
    return path


@pytest.fixture(scope="session")
def exact(bf16_model: Path) -> Counted:
    return Counted(open_runner(f"recipe:{bf16_model}", recipe="fp32"))


@pytest.fixture
def open_lab(bf16_model: Path, exact: Counted, tmp_path: Path) -> Callable[..., Lab]:
    """open_lab(edits=None, engine=None, **options) opens a lab on 40 ids; its cache is the test's own."""

    def make(edits: dict[tuple[int | None, str], Edit] | None = None, engine: Any = None, **options: Any) -> Lab:
        sut = engine if engine is not None else Counted(Planted(bf16_model, edits))
        given: dict[str, Any] = {
            "oracle": exact, "prompt": request_of(0, 40), "emulation": f"recipe:{bf16_model}", "version": "1",
            "new_tokens": 3, "cache": tmp_path / "cache",
        }  # fmt: skip
        return Lab(sut=sut, **{**given, **options})

    return make
