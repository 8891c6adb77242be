"""Which messages and tools make the prompt? A JSON file, checked before any template sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.errors import UsageError

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names that a message's reasoning goes by; templates read one of the first two."""


@dataclass(frozen=True)
class Conversation:
    """Messages as OpenAI-compatible servers take them, and tools as JSON schemas; `arguments` for the template.

    Raises UsageError for messages that are no list of objects with a role, and for an empty list.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.messages, (list, tuple)):
            found = "none" if self.messages is None else f"a {type(self.messages).__name__}"
            raise _no_messages(f"{found}; an object needs `messages`" if self.messages is None else found)
        if not self.messages:
            raise _no_messages("an empty list")
        for at, message in enumerate(self.messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise _no_messages(f"message {at}: {str(message)[:80]!r}")
        if not isinstance(self.tools, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in self.tools):
            raise UsageError(
                place="tools",
                expected="a list of JSON schemas",
                found=str(self.tools)[:80],
                next_step="Leave them out for a conversation without tools.",
            )
        try:
            json.dumps([self.messages, self.tools, dict(self.arguments)], ensure_ascii=False).encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            # Half of a surrogate pair, an object that is no JSON: no server could have been sent that.
            raise _no_messages(f"{type(error).__name__}: {error}"[:200]) from error
        object.__setattr__(self, "messages", tuple(self.messages))
        object.__setattr__(self, "tools", tuple(self.tools))

    @property
    def asks(self) -> bool:
        """True when it is the assistant's turn: the last message is not the assistant's own."""
        return self.messages[-1]["role"] not in ("assistant", "model")

    def variables(self, special: Mapping[str, str], **settings: Any) -> dict[str, Any]:
        """What the template sees: as transformers' `apply_chat_template` hands it over.

        Keys that are None are dropped from messages; reasoning is found under each of its names.
        """
        given = {"add_generation_prompt": self.asks, "tools": list(self.tools) or None, "documents": None}
        return {**special, **given, **self.arguments, **settings, "messages": [_message(m) for m in self.messages]}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    said = {key: value for key, value in message.items() if value is not None}
    reasoning = next((said[name] for name in REASONING if name in said), None)
    return said if reasoning is None else {"thinking": reasoning, **said, "reasoning_content": reasoning}


def read_conversation(
    path: Path, arguments: Mapping[str, Any] | None = None, *, tools: Path | None = None
) -> Conversation:
    """The conversation in a JSON file: a list of messages, or an object with `messages` and, if you like, `tools` and
    `chat_template_kwargs`, as a request to a server has them.

    arguments: of the template, over the file's own. tools: JSON file with a list of tools, instead of the file's own.
    Raises UsageError for files that hold neither.
    """
    content = _read_json(path, '[{"role": "user", "content": "..."}]')
    asked = content if isinstance(content, dict) else {"messages": content}
    own = asked.get("chat_template_kwargs") or {}
    if not isinstance(own, dict):
        raise UsageError(
            place=f"messages file {path}",
            expected="chat_template_kwargs as an object",
            found=type(own).__name__,
            next_step="Correct it, or leave it out.",
        )
    listed: Any = asked.get("tools") or ()
    if tools is not None:
        listed = _read_json(tools, '[{"type": "function", "function": {"name": "..."}}]')
    messages: Any = asked.get("messages")
    return Conversation(messages, listed, {**own, **(arguments or {})})


def _read_json(path: Path, example: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            place=f"file {path}",
            expected=f"JSON: {example}",
            found=f"{type(error).__name__}: {error}"[:200],
            next_step="Save the request that was sent to the engine.",
        ) from error


def contents(messages: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The text of each message; parts of a content list joined; empty for none."""
    found = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
        found.append(content if isinstance(content, str) else "")
    return tuple(found)


def tool_names(tools: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names that tools go by, those without one left out."""
    found = [(tool.get("function") if isinstance(tool.get("function"), Mapping) else tool) for tool in tools]
    return tuple(str(tool["name"]) for tool in found if isinstance(tool, Mapping) and tool.get("name"))


def _no_messages(found: str) -> UsageError:
    return UsageError(
        place="messages",
        expected='a list of at least one message, each like {"role": "user", "content": "..."}',
        found=found,
        next_step="Save the messages of the request that was sent to the engine.",
    )
