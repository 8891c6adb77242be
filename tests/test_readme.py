"""The README's example does what the README says it does."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
METHODOLOGY = (ROOT / "METHODOLOGY.md").read_text()
ENGINES = (ROOT / "docs/engines.md").read_text()


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


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
RUN = {
    "python": "test_the_example_prints_what_the_readme_shows",
    "py": "test_the_lab_of_the_readme_runs",
    "console": "test_every_command_runs_in_order",
    "text": "test_the_example_prints_what_the_readme_shows",
}
"""Which test runs the blocks of a language; `text` is what one of them prints, or what the demo's own test holds."""


@pytest.mark.parametrize("text", [README, METHODOLOGY], ids=["README", "METHODOLOGY"])
def test_no_block_of_commands_is_left_to_itself(text: str):
    for language, body in FENCE.findall(text):
        lines = body.replace("\\\n", " ").strip().splitlines()
        if language == "console":
            assert all(line.startswith("$ parity ") for line in lines), body
        elif language == "sh":
            own = [line for line in lines if line.startswith("parity ")]
            other = [line for line in lines if not line.startswith("parity ")]
            assert not own or not other, f"a block of two kinds is run by no test: {body}"
            assert all(line.startswith(("make ", "python3 -m venv", ".venv/bin/pip install")) for line in other), body
        else:
            assert language in RUN, f"no test runs blocks of {language!r}: {body}"


def test_what_is_installed_by_hand_exists():
    (command,) = [line for block in blocks("sh") for line in block.splitlines() if "pip install" in line]
    (asked,) = re.findall(r"'\.\[(.+)\]'", command)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(asked.split(",")) <= set(declared)
    assert (ROOT / re.findall(r"--constraint (\S+)", command)[0]).is_file()


PAGES = [ROOT / "README.md", ROOT / "METHODOLOGY.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "sdk/README.md"]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: Path):
    """Also into another page."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


TOLD = (
    "18 values compared, 0 differ", "182 weights", "from position 487 on", "2.8 times as far off",
    "145 of 1536 rows: experts 7", "62 of 87 sites exceed their floor", "cosine 0.9971",
    "Rows 256 and up of expert 7 were never written (zero): 145 rows", "55 of 55 sites", "KL 0.313 ", " 0.00261 nats",
    "text: 0 of 16 tokens as the oracle's before, 16 after",
)  # fmt: skip
"""What the report of the worked case says on a CPU, and its table in METHODOLOGY.md after it."""


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
    for told in ("8 of 87 sites add error", "**proved**", *(() if torch.cuda.is_available() else TOLD)):
        assert told in report, told
    # And the page says these numbers and no others.
    worked = METHODOLOGY.split("## A worked case")[1]
    for number in ("18 values, 182 weights", "2.8 times", "position 487", "0 of 16", "max=401", "145 rows of expert 7",
                   "62 of 87", "0.9971", "8 of 87", "KL 0.313 to 0.0026 nats", "all 55 sites"):  # fmt: skip
        assert number in worked, number


@pytest.fixture(scope="module")
def own_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader brings: two tensor files, a model folder, an engine with another rope base, a prompt and others."""
    folder = tmp_path_factory.mktemp("own")
    rows = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    for name, factor in (("trusted", 1.0), ("mine", 1.03)):
        scaled = torch.cat([rows[:, :128], factor * rows[:, 128:]], 1)
        save_file({"layers.0.out": scaled.bfloat16()}, folder / f"{name}.safetensors")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=160, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, rope_theta=10000.0,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder / "model")
    shutil.copytree(folder / "model", folder / "wrong")
    written = json.loads((folder / "wrong/config.json").read_text())
    written["rope_parameters"]["rope_theta"] = 500000.0
    (folder / "wrong/config.json").write_text(json.dumps(written))
    (folder / "prompts").mkdir()
    (example,) = re.findall(r'`(\{"name": "mine".*?\})`', README)
    assert len(json.loads(example)["ids"]) >= 8
    for number in range(7):
        ids = torch.randint(0, 160, (96,), generator=torch.Generator().manual_seed(number)).tolist()
        path, name = (f"prompts/{number}.json", f"other-{number}") if number else ("prompt.json", "mine")
        (folder / path).write_text(json.dumps({**json.loads(example), "name": name, "ids": ids}))
    return folder


OWN = [line for block in blocks("sh") if block.startswith("parity ") for line in block.strip().splitlines()]
SAID = {
    "compare": (1, "columns 128..256"),
    "investigate": (1, "fault (proved): rope_theta: the checkpoint says 10000; the engine states 500000.0."),
    "report": (0, "case-1/report.html"),
    "floor": (0, "Floor of fp32"),
}
"""Exit code and a sentence of each command of the README on files of one's own."""


@pytest.mark.long
def test_your_own_files_and_your_own_model(own_work: Path):
    """The `sh` blocks that name them, in order, word for word but for the engine, which is the one that is wrong."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles"))
    seen = set()
    for command in OWN:
        arguments = shlex.split(command.replace("torch:MODEL", "torch:wrong").replace("MODEL", "model"))[1:]
        done = subprocess.run(
            [sys.executable, "-m", "parity.cli", *arguments], cwd=own_work, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        )  # fmt: skip
        code, sentence = SAID[arguments[0]]
        assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
        assert sentence in done.stdout, command
        seen.add(arguments[0])
    assert seen == set(SAID)
    assert (own_work / "case-1/report.html").is_file()
    # The module of one's own, after them: it uses the floor that the last but one made.
    (example,) = [one for one in blocks("py", ENGINES) if "MODEL" in one]
    environment = {**os.environ, "PYTHONPATH": path, "PARITY_CACHE": str(own_work / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", example.replace("MODEL", "model")], cwd=own_work, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "Finding(fault, mlp.down of layers 1: " in done.stdout, done.stdout + done.stderr
    assert ", proved)" in done.stdout


def test_every_command_for_your_own_is_a_parity_command_that_is_known():
    assert {shlex.split(line)[1] for line in OWN} == set(SAID)
    assert all(line.startswith("parity ") for line in OWN)


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
