"""parity prompt: 0 for the template's ids, 1 for others with what to paste into a report, 2 for refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from parity.cli import app
from parity.errors import UsageError
from parity.prompt import Conversation, render_prompt

pytest.importorskip("tokenizers")
MODEL = Path(__file__).resolve().parents[2] / "fixtures/models/moe-tiny"
MESSAGES = [{"role": "user", "content": "What is a noise floor?"}]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["prompt", *map(str, arguments)])


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    path = tmp_path / "messages.json"
    path.write_text(json.dumps({"messages": MESSAGES, "model": "x"}))
    return path


def ids_file(folder: Path, ids: tuple[int, ...]) -> Path:
    path = folder / "ids.json"
    path.write_text(json.dumps({"tokens": ids}))
    return path


def test_the_template_s_ids_and_others(messages: Path, tmp_path: Path):
    _, ids = render_prompt(MODEL, Conversation(MESSAGES))
    given = ("--model", MODEL, "--messages", messages, "--ids")
    done = run(*given, ids_file(tmp_path, ids))
    assert (done.exit_code, "same: 17 ids" in done.stdout) == (0, True)
    done = run(*given, ids_file(tmp_path, ids[:-3]))
    assert done.exit_code == 1
    assert "1. assistant_priming_missing" in done.stdout
    assert "- <|im_start|>assistant⏎\n-   4090 3824 198" in done.stdout
    done = run(*given, ids_file(tmp_path, ids[:-3]), "--set", "add_generation_prompt=false")
    assert done.exit_code == 0
    done = run(*given, ids_file(tmp_path, ids[:-3]), "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (found["same"], found["explanation"]) == (False, "assistant_priming_missing")
    assert found["cause"] == "prompt differs from the tokenizer's template"
    assert found["first"]["position"] == 14


def test_a_setting_that_gives_the_ids_is_said(messages: Path, tmp_path: Path):
    _, ids = render_prompt(MODEL, Conversation(MESSAGES, arguments={"enable_thinking": False}))
    done = run("--model", MODEL, "--messages", messages, "--ids", ids_file(tmp_path, ids))
    assert done.exit_code == 0
    assert "equal under enable_thinking=False" in done.stdout


def test_an_engine_is_asked_by_itself(messages: Path):
    given = ("--messages", messages, "--sut", f"triton:{MODEL}")
    assert run(*given).exit_code == 0
    done = run(*given, "--option", "fault=template_think_injected")
    assert done.exit_code == 1
    assert "1. think_injected" in done.stdout


def test_the_template_is_printed_as_it_stands():
    done = run("--show-template", MODEL)
    assert done.exit_code == 0
    assert done.stdout == (MODEL / "chat_template.jinja").read_text()
    assert json.loads(run("--show-template", MODEL, "--json").stdout)["source"] == "chat_template.jinja"


@pytest.mark.parametrize(
    "left_out", [("--model", MODEL), ("--messages",), ("--ids",), ("--ids", "a", "--trace", "b", "--messages", "m")]
)
def test_misuse_is_refused(left_out: tuple[object, ...], messages: Path, tmp_path: Path):
    given = {"--model": MODEL, "--messages": messages, "--ids": ids_file(tmp_path, (1, 2))}
    if len(left_out) > 2:
        given["--trace"] = tmp_path
    else:
        del given[str(left_out[0])]
    done = run(*(part for pair in given.items() for part in pair))
    assert isinstance(done.exception, UsageError)
