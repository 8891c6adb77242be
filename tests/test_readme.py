"""The README's example does what the README says it does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
METHODOLOGY = (ROOT / "METHODOLOGY.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


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


COMMANDS = [
    line[2:]
    for text in (README, METHODOLOGY)
    for block in blocks("console", text)
    for line in block.splitlines()
    if line.startswith("$ ")
]


def prepare(folder: Path, command: str) -> list[str]:
    """The arguments of a README command, and the folder it runs in, which has the fixtures."""
    if not (folder / "fixtures").exists():
        (folder / "fixtures").symlink_to(ROOT / "fixtures")
    program, *arguments = shlex.split(command)
    assert program == "parity", command
    return arguments


def test_every_command_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from parity import cli

    assert len(COMMANDS) >= 8
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        # In this process: libraries are imported once and not for each of them.
        monkeypatch.setattr(sys, "argv", ["parity", *prepare(tmp_path, command)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        assert end.value.code == 0, f"{command}: {printed.err}"
        assert printed.out, command


def test_every_link_of_the_methodology_leads_somewhere():
    headings = re.findall(r"^#+ (.+)$", METHODOLOGY, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(([^)]+)\)", METHODOLOGY)
    assert len(links) > 8
    assert [link for link in links if link.startswith("#") and link[1:] not in anchors] == []
    assert [link for link in links if not link.startswith("#") and not (ROOT / link).exists()] == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_worked_case_comes_out_as_it_is_told(tmp_path: Path):
    (block,) = blocks("sh", METHODOLOGY)
    path = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles"))
    for command, code in zip(block.replace("\\\n", " ").strip().splitlines(), (1, 0), strict=True):
        arguments = prepare(tmp_path, command)
        done = subprocess.run(
            [sys.executable, "-m", "parity.cli", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
    report = (tmp_path / "case-1/report.md").read_text()
    # What the table of the worked case says, word for word where it quotes.
    # The most loaded expert is the interpreter's: compiled, near-ties of the router move a row or two.
    most = r"\d+" if torch.cuda.is_available() else "401"
    assert re.search(rf"rows=1536 avg=128 max={most} grid_cap=256 truncated=true", report)
    for told in ("8 of 87 sites add error", "**proved**"):
        assert told in report


@pytest.mark.long
def test_your_own_files_and_your_own_model(tmp_path: Path):
    """The `sh` blocks that name them, in order, with two files that differ in one column block and a shipped model."""
    (prompt,) = re.findall(r'`(\{"name": "mine".*?\})`', README)
    (tmp_path / "prompt.json").write_text(prompt)
    rows = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    for name, factor in (("trusted", 1.0), ("mine", 1.03)):
        scaled = torch.cat([rows[:, :128], factor * rows[:, 128:]], 1)
        save_file({"layers.0.out": scaled.bfloat16()}, tmp_path / f"{name}.safetensors")
    own = [block for block in blocks("sh") if block.startswith("parity ")]
    commands = [line for block in own for line in block.strip().splitlines()]
    path = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles"))
    said = {}
    for command in commands:
        arguments = prepare(tmp_path, command.replace("MODEL", "fixtures/models/moe-tiny"))
        done = subprocess.run(
            [sys.executable, "-m", "parity.cli", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said[arguments[0]] = (done.returncode, done.stdout + done.stderr)
    assert {name: code for name, (code, _) in said.items()} == {"compare": 1, "investigate": 2, "report": 0}, said
    assert "columns 128..256" in said["compare"][1]
    assert "without a floor nothing was judged" in said["investigate"][1]
    assert (tmp_path / "case-1/report.html").is_file()


@pytest.mark.long
def test_the_lab_of_the_readme_runs(tmp_path: Path):
    (example,) = blocks("py")
    prepare(tmp_path, "parity")
    path = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles"))
    environment = {**os.environ, "PYTHONPATH": path, "PARITY_CACHE": str(tmp_path / "cache")}
    # Strings are as a notebook's cells are: the engine's process must start from there.
    done = subprocess.run(
        [sys.executable, "-c", example + "print(lab.finding)"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rows past a tile edge were never written" in done.stdout
    assert ", proved)" in done.stdout


def test_what_make_demo_runs_is_the_demo(tmp_path: Path):
    """tests/test_demo.py runs it; here only that the Makefile asks for it, in the folder that is told of."""
    (recipe,) = re.findall(r"^demo:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert recipe == "$(BIN)/parity demo --out demo-report"
    assert prepare(tmp_path, recipe.removeprefix("$(BIN)/")) == ["demo", "--out", "demo-report"]


@pytest.mark.parametrize("target", re.findall(r"^make (\S+)", README, flags=re.MULTILINE))
def test_every_make_target_exists(target: str):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
