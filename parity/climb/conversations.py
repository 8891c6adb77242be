"""What is an engine asked to render where nobody gives a conversation? A question, one with tools, one with turns."""

from __future__ import annotations

from parity.prompt import Conversation

_SYSTEM = {"role": "system", "content": "Answer briefly."}
_QUESTION = {"role": "user", "content": "What is a noise floor?"}
_TOOL = {
    "type": "function",
    "function": {
        "name": "read_stage",
        "description": "Statistics of one stage.",
        "parameters": {"type": "object", "properties": {"layer": {"type": "integer"}}, "required": ["layer"]},
    },
}
_TURNS = (
    {"role": "user", "content": "Name a prime number."},
    {"role": "assistant", "content": "Seven."},
    {"role": "user", "content": "And a larger one?"},
)


def standard_conversations() -> tuple[Conversation, ...]:
    """Three, plainest first: what a template does with a lone question, with a system message and tools, with turns."""
    return Conversation((_QUESTION,)), Conversation((_SYSTEM, _QUESTION), (_TOOL,)), Conversation(_TURNS)
