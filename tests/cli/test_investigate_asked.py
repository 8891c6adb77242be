"""Is a slip of the hand in `parity investigate` refused before anything is opened, and before the folder is taken?"""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Command


def prompt(path: Path, name: str) -> Path:
    path.write_text(json.dumps({"name": name, "ids": list(range(1, 13))}))
    return path


def test_too_few_prompts_for_a_floor(parity: Command, tmp_path: Path):
    (tmp_path / "prompts").mkdir()
    for number in range(3):
        prompt(tmp_path / f"prompts/{number}.json", f"other-{number}")
    prompt(tmp_path / "prompts/same.json", "mine")  # the one that is judged is none of the floor's
    asked = ("--sut", "torch:nowhere", "--oracle", "hf:nowhere", "--prompt", prompt(tmp_path / "p.json", "mine"))
    ended = parity("investigate", *asked, "--calibrate", tmp_path / "prompts", "--out", tmp_path / "case")
    assert ended.code == 2
    assert "at least 4 prompts, each of its own document and name, besides the one that is judged" in ended.said
    assert "found 3" in ended.said
    assert not (tmp_path / "case").exists()
