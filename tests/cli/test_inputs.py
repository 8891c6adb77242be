"""Prompts, numbers and options as typed: read right, or refused with what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.cli.inputs import parse_numbers, parse_options, parse_range, read_request
from parity.errors import UsageError


def test_what_is_typed_is_read(tmp_path: Path):
    assert parse_numbers("0,2-4, 7", place="x") == (0, 2, 3, 4, 7)
    assert parse_range("3:9", place="x") == (3, 9)
    assert parse_options(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    assert read_request(None, "5,6").ids == (5, 6)
    file = tmp_path / "hello.json"
    file.write_text(json.dumps({"ids": [3, 1]}))
    assert (read_request(file, None).name, read_request(file, None).ids) == ("hello", (3, 1))


@pytest.mark.parametrize("text", ["", "a", "4-2", "1,,2", "1.5", "-3"])
def test_numbers_that_are_none(text: str):
    with pytest.raises(UsageError, match="separated by commas"):
        parse_numbers(text, place="--layers")


@pytest.mark.parametrize("text", ["", "5", "5:5", "9:3", "-1:4", "a:b"])
def test_ranges_that_are_none(text: str):
    with pytest.raises(UsageError, match="a:b with a < b"):
        parse_range(text, place="--positions")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ids": 3}', "\\x00"])
def test_prompt_files_that_are_none(tmp_path: Path, content: str):
    file = tmp_path / "prompt.json"
    file.write_text(content)
    with pytest.raises(UsageError, match="a JSON object like"):
        read_request(file, None)


def test_one_prompt_and_only_one():
    with pytest.raises(UsageError, match="neither"):
        read_request(None, None)
    with pytest.raises(UsageError, match="both"):
        read_request(Path("x"), "1")
    with pytest.raises(UsageError, match="NAME=VALUE"):
        parse_options(["novalue"])


def test_a_path_that_leads_nowhere_is_called_that(tmp_path: Path):
    from parity.floor import Floor

    with pytest.raises(UsageError, match=r"no such file or directory\. Check the path") as prompt:
        read_request(tmp_path / "typo.json", None)
    assert "Errno" not in str(prompt.value)
    with pytest.raises(UsageError, match=r"no such file\. Check the path") as floor:
        Floor.load(tmp_path / "typo.json")
    assert "floor calibrate" in str(floor.value)
