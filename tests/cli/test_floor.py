"""Does `parity floor` calibrate, go on after an interruption, measure power and refuse what it cannot vouch for?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parity.floor import Floor
from tests.cli.conftest import Command

ROOT = Path(__file__).resolve().parents[2]
RUNS = 8


def apart(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where no engine is loaded."""
    return subprocess.run(
        [sys.executable, "-m", "parity.cli", "floor", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=280, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": ".:kernels:oracles", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for number in range(6):
        ids = torch.randint(0, 80, (96,), generator=torch.Generator().manual_seed(number)).tolist()
        (folder / f"text-{number}.json").write_text(json.dumps({"name": f"text-{number}", "ids": ids}))
    return folder


@pytest.fixture(scope="module")
def made(bf16_model: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A floor from few runs of the random model, and the file of its samples."""
    out, samples = (tmp_path_factory.mktemp("floor") / name for name in ("floor.json", "samples.jsonl"))
    done = calibrate(bf16_model, prompts, out, samples)
    assert not done.returncode, done.stderr[-2000:]
    assert f"calibrate {RUNS}/" in done.stderr
    return out, samples


def calibrate(model: Path, prompts: Path, out: Path, samples: Path, *more: object) -> subprocess.CompletedProcess[str]:
    asked = ("--model", model, "--prompts", prompts, "--out", out, "--samples", samples)
    return apart("calibrate", *asked, "--runs", RUNS, "--longest", 48, "--json", *more)


def test_it_calibrates_and_counts_false_alarms_on_other_documents(made: tuple[Path, Path]):
    floor = Floor.load(made[0])
    assert len(floor.runs) == RUNS
    assert set(floor.gates) >= {"chained", "isolated", "distance"}
    assert floor.source == "emulation"
    assert floor.heldout is not None
    assert floor.heldout.runs == round(RUNS * 0.33)
    assert floor.heldout.upper_bound > 0.5  # three runs show next to nothing, and it says so
    assert not set(floor.documents) & {"text-2", "text-5"}


@pytest.mark.long
def test_an_interrupted_calibration_goes_on_and_ends_the_same(
    made: tuple[Path, Path], bf16_model: Path, prompts: Path, tmp_path: Path
):
    lines = made[1].read_text().splitlines(keepends=True)
    samples, out = tmp_path / "samples.jsonl", tmp_path / "floor.json"
    samples.write_text("".join(lines[:-1]) + lines[-1][:50])  # killed while it wrote the last
    done = calibrate(bf16_model, prompts, out, samples)
    assert not done.returncode, done.stderr[-2000:]
    assert out.read_text() == made[0].read_text()
    assert samples.read_text().startswith("".join(lines[:-1]))


def test_samples_of_another_model_are_not_taken_for_its_own(
    made: tuple[Path, Path], fp8_model: Path, prompts: Path, tmp_path: Path
):
    done = calibrate(fp8_model, prompts, tmp_path / "floor.json", made[1])
    assert done.returncode == 2
    assert "file of samples" in done.stdout
    assert not (tmp_path / "floor.json").exists()


@pytest.mark.long
def test_without_exact_arithmetic_the_floor_says_so(bf16_model: Path, prompts: Path, tmp_path: Path):
    done = calibrate(bf16_model, prompts, tmp_path / "floor.json", tmp_path / "samples.jsonl", "--perturb")
    assert not done.returncode, done.stderr[-2000:]
    floor = Floor.load(tmp_path / "floor.json")
    assert floor.source == json.loads(done.stdout)["source"] == "input perturbation"
    assert "from input perturbation" in floor.sentence()
    assert set(floor.gates) == {"chained", "isolated", "distance"}


@pytest.mark.long
def test_power_is_measured_on_documents_that_it_has_not_seen(
    made: tuple[Path, Path], bf16_model: Path, prompts: Path, tmp_path: Path
):
    file = tmp_path / "floor.json"
    file.write_bytes(made[0].read_bytes())
    done = apart("power", file, "--model", bf16_model, "--prompts", prompts, "--runs", 1, "--longest", 32, "--json")
    assert not done.returncode, done.stderr[-2000:]
    assert "power 1/" in done.stderr
    power = Floor.load(file).power
    assert len(power) == len(json.loads(done.stdout)["power"]) > 100
    lost = next(p for p in power if (p.stage, p.kind, p.damage) == ("attn.out", "tensor", "lost rows"))
    assert lost.strength == pytest.approx(1 / lost.rows, rel=0.01)
    scale = next(p for p in power if (p.stage, p.kind, p.damage) == ("attn.out", "tensor", "scale"))
    assert scale.strength is not None
    assert scale.strength < 0.1


def test_power_on_other_weights_is_refused(made: tuple[Path, Path], fp8_model: Path, prompts: Path):
    before = made[0].read_bytes()
    done = apart("power", made[0], "--model", fp8_model, "--prompts", prompts, "--runs", 1)
    assert done.returncode == 2
    assert "power of a noise floor" in done.stderr
    assert made[0].read_bytes() == before


def test_both_are_refused_beside_an_engine(
    made: tuple[Path, Path], parity: Command, bf16_model: Path, prompts: Path, tmp_path: Path
):
    asked = ("--model", bf16_model, "--prompts", prompts)
    for ended in (
        parity("floor", "calibrate", *asked, "--out", tmp_path / "floor.json"),
        parity("floor", "power", made[0], *asked),
    ):
        assert ended.code == 2
        assert "engine under test" in ended.said
    assert not (tmp_path / "floor.json").exists()


def test_too_few_documents_are_refused_before_anything_runs(bf16_model: Path, prompts: Path, tmp_path: Path):
    done = calibrate(bf16_model, prompts / "text-0.json", tmp_path / "floor.json", tmp_path / "samples.jsonl")
    assert done.returncode == 2
    assert "split of documents" in done.stdout
    assert not (tmp_path / "samples.jsonl").exists()


def test_show_prints_what_the_file_holds(made: tuple[Path, Path], parity: Command, tmp_path: Path):
    ended = parity("floor", "show", made[0], "--json")
    assert (ended.code, ended.json["runs"], ended.json["source"]) == (0, RUNS, "emulation")
    assert "Gates" in parity("floor", "show", made[0]).out
    (tmp_path / "other.json").write_text("{}")
    assert parity("floor", "show", tmp_path / "other.json").code == 2
