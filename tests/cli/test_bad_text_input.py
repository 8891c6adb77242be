"""What cannot be a prompt or a completion is refused in one sentence with its reason, exit 2, and no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
MODEL = Path(__file__).resolve().parent.parent.parent / "fixtures" / "models" / "moe-tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped tokenizer and template without weights."""
    made = tmp_path / "model"
    made.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL / name, made / name)
    return made


def test_a_tokenizer_without_a_template(parity: Command, folder: Path, tmp_path: Path):
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    messages, ids = tmp_path / "messages.json", tmp_path / "ids.json"
    messages.write_text('[{"role": "user", "content": "hello"}]')
    ids.write_text("[1, 2]")
    done = parity("prompt", "--model", folder, "--messages", messages, "--ids", ids)
    assert done.code == 2
    assert "template" in done.said
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("messages", "ids", "match"),
    [
        ('[{"role": "user", "content": "hello"}]', "[1, 999999]", "999999"),
        ('[{"role": "user", "content": "hello"}]', "[1, -3]", "-3"),
        ('[{"role": "user", "content": "hello"}]', '["a"]', "ids"),
        ('{"role": "user", "content": "hello"}', "[1]", "list"),
        ('"hello"', "[1]", "list"),
        ("[]", "[1]", "message"),
        ('["hello"]', "[1]", "message"),
        ("{", "[1]", "JSON"),
    ],
)
def test_ids_out_of_vocabulary_and_messages_that_are_no_list(
    parity: Command, folder: Path, tmp_path: Path, messages: str, ids: str, match: str
):
    (tmp_path / "messages.json").write_text(messages)
    (tmp_path / "ids.json").write_text(ids)
    asked = ("prompt", "--model", folder, "--messages", tmp_path / "messages.json", "--ids", tmp_path / "ids.json")
    done = parity(*asked)
    assert done.code == 2
    assert match in done.said
    refused = parity(*asked, "--json")
    assert refused.json["error"]["next_step"]


@pytest.mark.parametrize(("name", "content"), [("a.txt", ""), ("a.json", '{"ids": []}'), ("b.json", '{"text": ""}')])
def test_an_empty_completion(parity: Command, tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    done = parity("text", "score", tmp_path / name)
    assert done.code == 2
    assert "empty completion" in done.said


def test_a_decoding_prompt_out_of_vocabulary(parity: Command, fp8_model: Path):
    spec = f"recipe:{fp8_model}"
    done = parity("decode", "--sut", spec, "--oracle", spec, "--ids", "1,999999", "--emulation", "none")
    assert done.code == 2
    assert "999999 at position 1" in done.said
