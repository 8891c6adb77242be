"""In which recipe is the emulation opened? In the engine's own, for the rungs and for the grafts alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity.climb import Case
from parity.climb.bench import Bench
from parity.climb.counted import Counted
from parity.climb.rungs.proof import obstacle
from parity.errors import UsageError
from parity.floor import Floor
from parity.ladder.calibrate import Opening
from parity.runner import RunnerInfo
from parity.trace import verify_trace
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.recipes.runner import RecipeRunner
from tests.climb.conftest import random_request


class Says(RecipeRunner):
    """An engine that states a recipe of this name."""

    says = ""

    def describe(self) -> RunnerInfo:
        info = super().describe()
        return replace(info, recipe=replace(info.recipe, name=self.says))


@pytest.fixture
def bench_of(bf16_model: Path, bf16_floor: Path, tmp_path: Path):
    def make(says: str, **options: Any) -> Bench:
        engine, spec = Says(read_checkpoint(bf16_model)), f"recipe:{bf16_model}"
        engine.says = says
        case = Case(sut=spec, oracle=spec, request=random_request(0, 8), emulation=spec)
        return Bench(
            case, tmp_path, sut=Counted(engine), oracle=engine, emulation=Opening(spec, options),
            floor=Floor.load(bf16_floor),
        )  # fmt: skip

    return make


@pytest.mark.parametrize(("says", "opened"), [("fp32", "fp32"), ("bf16", "bf16"), ("unknown", "bf16")])
def test_rungs_and_grafts_open_the_same_recipe(bench_of: Any, says: str, opened: str):
    bench = bench_of(says, order=1)
    assert bench.recipe_runner.describe().recipe.name == opened
    assert bench.emulation.options["order"] == 1
    assert bench.emulation.options.get("recipe", "bf16") == opened


def test_a_recipe_that_somebody_names_is_kept(bench_of: Any):
    bench = bench_of("bf16", recipe="fp32")
    assert bench.emulation.options == {"recipe": "fp32"}
    assert bench.recipe_runner.describe().recipe.name == "fp32"


def test_a_recipe_that_nobody_emulates_leaves_no_emulation_and_no_proof(bench_of: Any):
    bench = bench_of("int3")
    assert bench.recipe_runner is None
    assert bench.emulation is None
    assert "an emulation of the engine's recipe" in obstacle(bench)
    with pytest.raises(UsageError):
        _ = bench_of("int3", recipe="int3").emulation


def _cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


@pytest.mark.parametrize(
    "lose",
    [
        lambda folder: [path.unlink() for path in folder.iterdir()],
        lambda folder: (folder / "manifest.jsonl").write_bytes(b""),
        lambda folder: _cut(folder / "manifest.jsonl", 0.5),
        lambda folder: [path.unlink() for path in folder.glob("shard-*")],
        lambda folder: [_cut(path, 0.5) for path in folder.glob("shard-*")],
    ],
    ids=["empty", "no header", "half a manifest", "no shard", "half a shard"],
)
def test_what_a_killed_run_left_of_a_trace_is_made_anew(bench_of: Any, lose: Any):
    whole = bench_of("bf16").trace
    lose(whole.folder)
    bench = bench_of("bf16")
    assert verify_trace(bench.trace.folder).complete
    assert bench.engine.forwards == 1


def test_a_whole_trace_is_used_again(bench_of: Any):
    assert bench_of("bf16").trace.folder.exists()
    bench = bench_of("bf16")
    assert (len(bench.trace.captures) > 0, bench.engine.forwards) == (True, 0)
