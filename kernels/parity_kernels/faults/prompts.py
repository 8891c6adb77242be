"""Prompts that are not what the model was trained on: every comparison on the same ids agrees, and the text is bad."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from parity.faults import Fault, Prompt
from parity.fingerprint.causes import PROMPT_TEMPLATE

FAMILY_DEFAULT = (
    "{% for message in messages %}{{ '### ' + message.role + ':\n' + message.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
"""What a loader falls back to that knows no template of the model's own."""


def hand_rolled(prompt: Prompt) -> Prompt:
    """ChatML by hand: no newline after a turn, and no priming of the assistant's."""
    turns = (f"<|im_start|>{m['role']}\n{m.get('content') or ''}<|im_end|>" for m in prompt.messages)
    return replace(prompt, text="".join(turns))


def think_injected(prompt: Prompt) -> Prompt:
    """An empty thought after the assistant's priming, whatever the options say."""
    return replace(prompt, text=prompt.rendered() + "<think></think>")


def template_file_ignored(prompt: Prompt) -> Prompt:
    """Looks for the template in tokenizer_config.json alone."""
    path = None if prompt.folder is None else prompt.folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path is not None and path.is_file() else {}
    return replace(prompt, template=config.get("chat_template", FAMILY_DEFAULT))


def system_message_empty(prompt: Prompt) -> Prompt:
    """A client's system message without content, before the conversation."""
    return replace(prompt, messages=({"role": "system", "content": "User Context:\n"}, *prompt.messages))


def tools_described_twice(prompt: Prompt) -> Prompt:
    """A client writes its own tool format into the system message, and passes the tools to the template as well."""
    tools = prompt.tools or ({"type": "function", "function": {"name": "search", "parameters": {}}},)
    listed = "\n".join(json.dumps(tool) for tool in tools)
    text = f"You have these functions:\n{listed}\nCall one as [name(argument=value)]."
    return replace(prompt, tools=tools, messages=({"role": "system", "content": text}, *prompt.messages))


def on_conversations(change: Any) -> Any:
    """Leaves requests given as ids as they are: nothing renders those."""
    return lambda prompt: prompt if prompt.ids is not None else change(prompt)


FAULTS = [
    Fault(
        name=name,
        family="qwen3_moe",
        summary=summary,
        truth=None,
        rung="prompt",
        cause=PROMPT_TEMPLATE,
        prompt=on_conversations(change),
    )
    for name, summary, change in (
        ("template_hand_rolled", "The prompt is built by hand and lacks the assistant's priming.", hand_rolled),
        ("template_think_injected", "An empty thought is injected after the assistant's priming.", think_injected),
        ("template_file_ignored", "The loader does not look for chat_template.jinja.", template_file_ignored),
        ("system_message_empty", "A system message without content comes first.", system_message_empty),
        ("tools_described_twice", "The prompt describes its tools in two formats.", tools_described_twice),
    )
]
