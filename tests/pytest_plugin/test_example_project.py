"""A project of its own, with the lab's built wheel in a fresh environment: green, red for a defect, rewritten."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In an environment that knows nothing of this checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel; the other packages are those of this one."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    wheel = next(folder.glob("parity_lab-*.whl"))
    made = run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "venv/bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    done = run(*pip, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    # After its own packages, and as plain folders: .pth files there, an editable lab for one, are not followed.
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    where = run(python, "-c", "import parity; print(parity.__file__)", cwd=folder)
    assert where.stdout.strip().startswith(str(folder)), where.stdout + where.stderr
    return python


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "tests/example_project", tmp_path / "example"))


def test_the_example_passes_with_its_committed_goldens(python: Path, example: Path):
    done = run(python, "-m", "pytest", "-p", "no:cacheprovider", cwd=example)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert "parity goldens" not in done.stdout


def test_a_lost_tile_fails_names_the_row_and_is_rewritten_only_on_request(python: Path, example: Path):
    engine = example / "tiny_engine/__init__.py"
    source = engine.read_text()
    defect = source.replace("range(-(-rows // TILE))", "range(rows // TILE)")
    assert defect != source
    engine.write_text(defect)
    done = run(python, "-m", "pytest", "-p", "no:cacheprovider", cwd=example)
    assert done.returncode == 1
    assert "1 failed, 3 passed" in done.stdout
    found = re.search(r"worst: (act|out): row (\d+)\b.*: ([\d.]+) times its floor", done.stdout)
    assert found, done.stdout
    assert int(found[2]) in range(32, 37)
    assert float(found[3]) > 10
    command = re.search(r"investigate: (.*)", done.stdout)
    assert command
    shown = run(python.parent / "parity", *shlex.split(command[1])[1:], cwd=example)
    assert shown.returncode == 1, shown.stdout + shown.stderr
    # By the derived floor alone, so it may be another of the lost rows.
    named = re.search(r"First divergence .*row (\d+)", shown.stdout)
    assert named, shown.stdout
    assert int(named[1]) in range(32, 37)

    done = run(python, "-m", "pytest", "-p", "no:cacheprovider", "--parity-update", cwd=example)
    assert done.returncode == 0, done.stdout
    assert re.search(
        r"rewritten: tests/goldens/test_engine/test_gated_mlp\.safetensors: 2 of 2 moved: \w+ by [\d.]+ floors",
        done.stdout,
    )
    assert "unchanged: 3" in done.stdout
    engine.write_text(source)
    assert run(python, "-m", "pytest", "-p", "no:cacheprovider", cwd=example).returncode == 1
