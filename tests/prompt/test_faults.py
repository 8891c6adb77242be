"""The shipped engine's planted prompt faults are found with the right explanation, and the healthy engine is silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parity.errors import RunnerError
from parity.faults import shipped_faults
from parity.prompt import Conversation, compare_prompts, fed_by_runner
from parity.runner import open_runner

MODEL = Path(__file__).resolve().parents[2] / "fixtures/models/moe-tiny"
SPEC = f"triton:{MODEL}"

TRUTH = {
    "template_hand_rolled": {"assistant_priming_missing", "newline_missing"},
    "template_think_injected": {"think_injected"},
    "template_file_ignored": {"template_file_ignored"},
    "system_message_empty": {"system_message_empty"},
    "tools_described_twice": {"tools_described_twice"},
}
DIALOGUES = json.loads((MODEL.parent / "dialogues.json").read_text())
CHAT = Conversation([{"role": "user", "content": "What is a noise floor?"}])
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {
    "type": "function",
    "function": {"name": "read_stage", "parameters": {"type": "object", "properties": {"layer": {"type": "integer"}}}},
}


def conversations() -> list[Conversation]:
    """A short one, one with a system message and tools, one with earlier turns and without thinking."""
    turns = next(one for one in DIALOGUES if len(one["messages"]) > 2 and one["messages"][-1]["role"] == "user")
    return [
        CHAT,
        Conversation([SYSTEM, *CHAT.messages], [TOOL]),
        Conversation(turns["messages"], turns["tools"] or (), {"enable_thinking": False}),
    ]


def fed(runner: Any, conversation: Conversation) -> Any:
    return compare_prompts(MODEL, conversation, fed_by_runner(runner, conversation, source=SPEC))


def test_every_shipped_prompt_fault_is_here():
    assert set(TRUTH) == {name for name, fault in shipped_faults().items() if fault.rung == "prompt"}


def test_the_healthy_engine_is_silent():
    runner = open_runner(SPEC)
    for conversation in conversations():
        assert fed(runner, conversation).same


def test_the_healthy_engine_s_settings_are_found():
    runner = open_runner(SPEC)
    quiet = Conversation(CHAT.messages, arguments={"enable_thinking": False})
    found = compare_prompts(MODEL, CHAT, fed_by_runner(runner, quiet, source=SPEC))
    assert found.same
    assert found.settings == {"enable_thinking": False}


@pytest.mark.parametrize("fault", TRUTH)
def test_a_prompt_fault_is_found_and_explained(fault: str):
    runner = open_runner(SPEC, fault=fault)
    for conversation in conversations():
        found = fed(runner, conversation)
        assert not found.same
        named = [one.name for one in found.explanations]
        assert TRUTH[fault] <= set(named), named
        if len(TRUTH[fault]) == 1:
            assert {found.explanation} == TRUTH[fault], named
        else:
            # It leaves the tools out as well, where there are any.
            assert next(name for name in named if name != "tools_missing") == "hand_rolled", named


def test_a_runner_that_renders_nothing_is_refused(fp8_model: Path):
    with pytest.raises(RunnerError, match="--ids"):
        fed_by_runner(open_runner(f"triton:{fp8_model}"), CHAT, source="triton")
