"""What is measured of a text beside loops, each with a defect planted; and what cannot be scored is refused."""

from __future__ import annotations

import json
import random
from math import log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.errors import UsageError
from parity.text import Completion, from_ids, read_completion, score_text, split_text
from parity.text.nonsense import first_nonsense
from parity.text.statistics import compression_ratio, distinct
from parity.text.structure import open_fence, open_thinking


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 4))
def test_distinct_counts_as_sets_do(ids: list[int], n: int):
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    expected = len(set(grams)) / len(grams) if grams else 1.0
    assert distinct(np.array(ids, np.int32), n) == expected


@pytest.mark.parametrize(
    ("text", "still_open"),
    [
        ("a\n```python\nx\n```\nb", False),
        ("a\n```python\nx\n", True),
        ("a\n````\n```\nx\n", True),
        ("a\n````\n```\n````\n", False),
        ("a\n~~~\n```\n~~~", False),
        ("a\n```\nx\n```python\n", True),
        ("inline ``` ticks", False),
        ("    ```\nindented code, no fence", False),
        ("``` a`b\nno fence: a tick in the info string", False),
    ],
)
def test_code_fences(text: str, still_open: bool):
    assert open_fence(text) is still_open


def test_thinking_sections():
    assert open_thinking("<think>hm")
    assert not open_thinking("<think>hm</think> yes")
    assert open_thinking("<think>a</think> b <think>c")
    assert not open_thinking("no </think> here")


def test_nonsense_starts_where_the_oracle_stops_believing():
    rng = random.Random(0)
    sane = [-rng.expovariate(1 / 2.0) for _ in range(200)]
    mad = [-rng.expovariate(1 / 9.0) for _ in range(100)]
    at = first_nonsense(sane + mad, vocabulary=32_000)
    assert at is not None
    assert 184 <= at <= 210  # a window of 16 that is mostly nonsense
    assert first_nonsense(sane, vocabulary=32_000) is None
    assert first_nonsense([-log(32_000)] * 20, vocabulary=32_000) == 0
    assert first_nonsense([-9.0] * 15, vocabulary=32_000) is None
    assert first_nonsense([float("-inf")] * 16, vocabulary=32_000) == 0
    with pytest.raises(UsageError, match="none above 0"):
        first_nonsense([0.5] * 20, vocabulary=10)


def test_one_record_says_where_it_degenerates():
    head = "The bridge was built in a year. It stood for a century and then fell in a storm that nobody saw.\n"
    loop = "and then and then the bridge fell, " * 30
    score = score_text(Completion(split_text(head + loop)))
    assert score.loop is not None
    assert score.first_degeneration == score.loop.start
    assert not score.healthy
    assert score.seq_rep_4 > 0.5
    assert score.compression_ratio is not None
    assert score.compression_ratio > 5
    sane = score_text(Completion(split_text(head)))
    assert (sane.first_degeneration, sane.loop, sane.healthy) == (None, None, True)


def test_a_premature_end_needs_to_be_the_models_own():
    for text, stopped, expected in (
        ("It fell because", True, True),
        ("It fell because", False, False),
        ("It fell because", None, None),
        ("It fell.", True, False),
        ("```\ncode", True, True),
        ("<think>hm.", True, True),
    ):
        assert score_text(Completion(split_text(text), stopped=stopped)).premature_end is expected
    assert score_text(Completion(from_ids([1, 2]), stopped=True)).premature_end is None


def test_files_in_every_form(tmp_path: Path):
    plain = tmp_path / "a.txt"
    plain.write_text("hello world")
    assert read_completion(plain).text.text == "hello world"
    for content, tokens in (
        ({"text": "a b", "finish_reason": "length"}, 3),
        ({"tokens": ["a", " b"], "logprobs": [-1, -2.5]}, 2),
        ({"ids": [4, 5, 6], "vocabulary": 10}, 3),
    ):
        file = tmp_path / "a.json"
        file.write_text(json.dumps(content))
        assert len(read_completion(file).text) == tokens
    raw = tmp_path / "raw.txt"
    raw.write_bytes(b"\xff\xfe broken \x00 bytes")
    assert score_text(read_completion(raw)).tokens > 3


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "nonsense", '{"ids": ["a"]}', '{"ids": [1, -2]}', '{"text": 3}', '{"ids": [1, 2], "logprobs": [-1]}'],
)
def test_what_is_no_completion_is_refused(tmp_path: Path, content: str):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(UsageError, match="completion"):
        read_completion(file)
    with pytest.raises(UsageError, match="completion"):
        read_completion(tmp_path / "none.txt")


def test_an_empty_completion_is_refused():
    with pytest.raises(UsageError, match="at least one token"):
        score_text(Completion(split_text("")))


def test_compression_of_nothing_and_of_a_loop():
    assert compression_ratio("") == 1.0
    assert compression_ratio("ab" * 1000) > 50
    assert compression_ratio("\udcff\ud800") > 0
