"""The shipped engine's planted prompt faults are found with the right explanation, and the healthy engine is silent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity.errors import RunnerError
from parity.faults import Prompt, shipped_faults
from parity.prompt import Conversation, compare_prompts, fed_by_runner
from parity.runner import open_runner

pytestmark = pytest.mark.usefixtures("remembered_renderings")

Change = Callable[[Prompt], Prompt]

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


PYTHON = Conversation(
    [
        {"role": "system", "content": "Answer in two words.\nNo more."},
        {"role": "user", "content": '  naïve → 3 < 4 & "quoted"\n\n```py\nx = 1\n```'},
    ]
)
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
TURNS = Conversation(
    [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3" * 40}],
    [TOOL, CLOCK],
)


def by_hand(before: str, after: str) -> Change:
    def change(prompt: Prompt) -> Prompt:
        turns = (f"<|im_start|>{m['role']}{before}{m.get('content') or ''}<|im_end|>{after}" for m in prompt.messages)
        return replace(prompt, text="".join(turns))

    return change


def injected(text: str) -> Change:
    return lambda prompt: replace(prompt, text=prompt.rendered() + text)


def fallback(template: str) -> Change:
    return lambda prompt: replace(prompt, template=template)


def headed(text: str) -> Change:
    return lambda prompt: replace(prompt, messages=({"role": "system", "content": text}, *prompt.messages))


def described(form: Callable[[Any], str]) -> Change:
    return lambda prompt: headed(form([one["function"] for one in prompt.tools or ()]))(prompt)


VARIANTS = [
    ("template_hand_rolled", PYTHON, by_hand("\n", " "), {"assistant_priming_missing", "newline_missing"}),
    ("template_hand_rolled", PYTHON, by_hand(": ", ""), {"assistant_priming_missing", "newline_missing"}),
    ("template_think_injected", TURNS, injected("<think></think>\n\n"), {"think_injected"}),
    ("template_think_injected", PYTHON, injected("<think>\n</think>"), {"think_injected"}),
    (
        "template_file_ignored",
        PYTHON,
        fallback("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "),
        {"template_file_ignored"},
    ),
    (
        "template_file_ignored",
        TURNS,
        fallback("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}<|assistant|>\n"),
        {"template_file_ignored"},
    ),
    ("system_message_empty", TURNS, headed(""), {"system_message_empty"}),
    ("system_message_empty", TURNS, headed("Conversation notes: none"), {"system_message_empty"}),
    ("tools_described_twice", TURNS, described(lambda tools: json.dumps(tools, indent=2)), {"tools_described_twice"}),
    (
        "tools_described_twice",
        TURNS,
        described(lambda tools: "Available: " + ", ".join(f"{one['name']}()" for one in tools)),
        {"tools_described_twice"},
    ),
]
"""Two further forms of each shipped fault, by other means and on conversations that none of them was written for."""


def test_every_prompt_fault_has_two_further_forms():
    assert Counter(name for name, *_ in VARIANTS) == dict.fromkeys(TRUTH, 2)


@pytest.mark.parametrize("conversation", [PYTHON, TURNS])
def test_the_healthy_engine_is_silent_on_these_too(conversation: Conversation):
    assert fed(open_runner(SPEC), conversation).same


@pytest.mark.parametrize(("name", "conversation", "change", "truth"), VARIANTS)
def test_further_forms_of_a_prompt_fault_are_found(
    name: str, conversation: Conversation, change: Change, truth: set[str]
):
    planted = replace(shipped_faults()[name], prompt=change, instances=None)
    found = fed(open_runner(SPEC, fault=planted), conversation)
    named = {one.name for one in found.explanations}
    assert not found.same
    assert truth <= named, named
    if name not in ("template_hand_rolled", "template_file_ignored"):
        assert found.explanation in truth, named
