"""The README's example does what the README says it does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("example", blocks("python"))
def test_the_example_prints_what_the_readme_shows(example: str):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles")),
    }
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout in blocks("text"), done.stdout + done.stderr


def test_every_link_and_room_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    table = README.split("## Rooms")[1].split("##")[0]
    rooms = [
        name for cell in re.findall(r"^\| (.+?) \|", table, flags=re.MULTILINE) for name in re.findall(r"`(.+?)`", cell)
    ]
    assert len(links) > 3
    assert len(rooms) > 10
    # In a cell that names several, the later ones stand in the same room as the first: parity/.
    missing = [
        name for name in (*links, *rooms) if not (ROOT / name).exists() and not (ROOT / "parity" / name).exists()
    ]
    assert missing == []


COMMANDS = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


def run_in_order(commands: list[str], folder: Path) -> None:
    """Run README commands in `folder`, which has the fixtures, as the installed `parity` would."""
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    path = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles"))
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "parity", command
        done = subprocess.run(
            [sys.executable, "-m", "parity.cli", *arguments],
            cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert done.stdout, command


def test_every_command_runs_in_order(tmp_path: Path):
    assert len(COMMANDS) >= 8
    run_in_order(COMMANDS, tmp_path)


@pytest.mark.long
def test_what_make_demo_runs_does_run(tmp_path: Path):
    (recipe,) = re.findall(r"^demo:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    run_in_order([recipe.removeprefix("$(BIN)/")], tmp_path)
    assert (tmp_path / "demo-report/report.md").is_file()


@pytest.mark.parametrize("target", re.findall(r"^make (\S+)", README, flags=re.MULTILINE))
def test_every_make_target_exists(target: str):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
