"""Ids from servers' answers, files, traces; what holds none, or several, is refused with the next step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parity.errors import ParityError, UsageError
from parity.prompt import Conversation, compare_prompts, fed_in_trace, read_fed
from parity.runner import CapturePlan, Request
from parity.trace import save_trace


@pytest.mark.parametrize(
    ("content", "counted"),
    [
        ([5, 6, 7], None),
        ({"ids": [5, 6, 7]}, None),
        ({"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 1]]}, None),
        ({"count": 3, "max_model_len": 40, "tokens": [5, 6, 7]}, 3),
        ({"tokens": [{"id": 5, "piece": "a"}, {"id": 6, "piece": [1]}, {"id": 7, "piece": "c"}]}, None),
        (
            {
                "choices": [{"message": {"content": "x"}, "token_ids": [1, 2]}],
                "usage": {"prompt_tokens": 4},
                "prompt_token_ids": [5, 6, 7],
            },
            4,
        ),
        ({"choices": [{"prompt_token_ids": [5, 6, 7], "token_ids": [1]}], "usage": {"prompt_tokens": 3}}, 3),
        ([{"prompt_token_ids": [5, 6, 7], "outputs": [{"token_ids": [1]}]}], None),
        ({"meta_info": {"prompt_tokens": 3, "input_token_ids": 0}, "input_ids": [5, 6, 7]}, 3),
    ],
)
def test_servers_answers(content: Any, counted: int | None, tmp_path: Path):
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(content))
    found = read_fed(path)
    assert (found.ids, found.counted) == ((5, 6, 7), counted)


def test_numbers_of_a_log_line(tmp_path: Path):
    (tmp_path / "log").write_text("5, 6\n7\n")
    assert read_fed(tmp_path / "log").ids == (5, 6, 7)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "hello", "[1, -2]", "[1, 2.5]", "[true]", '["a"]', "[[1], [2]]", '{"tokens": ["a", "b"]}', "null",
     '{"choices": [{"prompt_token_ids": [1]}, {"prompt_token_ids": [2]}]}', "[" * 5000],
)  # fmt: skip
def test_what_holds_no_ids_is_refused(text: str, tmp_path: Path):
    path = tmp_path / "answer.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="ids") as refused:
        read_fed(path)
    assert "return_token_ids" in refused.value.next_step


def test_ids_that_the_tokenizer_lacks_are_refused(make_folder: Any):
    folder = make_folder("{{ messages[0].content }}")
    with pytest.raises(UsageError, match="99999 at position 1"):
        compare_prompts(folder, Conversation([{"role": "user", "content": "x"}]), (5, 99999))


def test_ids_of_a_trace(bf16_model: Path, tmp_path: Path):
    from parity_kernels.forward.runner import open_runner

    requests = [Request("one", (5, 6, 7)), Request("two", (8, 9))]
    trace = open_runner(str(bf16_model)).forward(requests, capture=CapturePlan(stages=("final_norm",)))
    save_trace(tmp_path / "trace", trace)
    assert fed_in_trace(tmp_path / "trace", "two").ids == (8, 9)
    with pytest.raises(UsageError, match="one, two"):
        fed_in_trace(tmp_path / "trace")
    with pytest.raises(ParityError):
        fed_in_trace(tmp_path / "nowhere")
