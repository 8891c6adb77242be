"""Does every notebook ask a question, answer it, define nothing, and come out as it says? Its own cells assert that."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NAMES = (
    "01_first_look", "02_layer_bisection", "03_noise_or_bug", "04_vllm_against_hf", "05_your_own_engine",
    "06_writing_a_fault",
)  # fmt: skip


def read(name: str) -> Any:
    return jupytext.read(FOLDER / f"{name}.py")


def objections(cells: list[Any]) -> list[str]:
    """What is wrong with a notebook's cells, in words."""
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    found = []
    if not texts or not texts[0].startswith("# ") or "**Question.**" not in texts[0] or "?" not in texts[0]:
        found.append("does not open with its question")
    if cells[-1].cell_type != "markdown" or not cells[-1].source.startswith("## Answer"):
        found.append("does not end with the answer")
    nodes = list(ast.walk(ast.parse(code)))
    if any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)) for node in nodes):
        found.append("defines what belongs into the library")
    if sum(isinstance(node, ast.Assert) for node in nodes) < 3:
        found.append("asserts nothing of its results")
    imported = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    if not any(name.split(".")[0] == "parity" for name in imported):
        found.append("does not use the library")
    return found


def test_all_of_them_are_there():
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_asks_answers_and_defines_nothing(name: str):
    notebook = read(name)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert objections(notebook.cells) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("# %% [markdown]\n# Just text\n# %%\nassert 1", "does not open"),
        ("# %% [markdown]\n# # T\n#\n# **Question.** Why?\n# %%\nx = 1", "does not end"),
        ("# %%\ndef f():\n    pass", "defines"),
        ("# %%\nx = lambda: 0", "defines"),
        ("# %%\nimport numpy\nassert True", "does not use"),
    ],
)
def test_what_is_wrong_is_seen(source: str, said: str):
    assert any(said in one for one in objections(jupytext.reads(source, "py:percent").cells))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_comes_out_as_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "oracles")))
    # Progress bars are for people, and what one run keeps is not for the next.
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUPYTER_PATH", str(kernel_for_this_python(tmp_path)))
    notebook = read(name)
    client.NotebookClient(
        notebook, timeout=500, kernel_name="parity-test", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert "text/html" in shown, "records show themselves as tables"
    assert "image/png" in shown, "and as figures"
    assert not [output for output in outputs if output.output_type == "error"]


def kernel_for_this_python(folder: Path) -> Path:
    """A kernel of the Python that runs the tests: one that is installed may be another's."""
    import json
    import sys

    place = folder / "jupyter" / "kernels" / "parity-test"
    place.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (place / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "parity", "language": "python"}))
    return folder / "jupyter"
