"""Which ids did the engine feed? From a file, a server's saved answer, a trace, or a runner that renders by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.errors import RunnerError, UsageError
from parity.prompt.conversation import Conversation

NAMES = ("prompt_token_ids", "input_ids", "prompt_tokens_ids", "token_ids", "tokens", "ids")
"""Where servers and dumps keep a prompt's ids: vLLM's `return_token_ids` and `/tokenize`, llama.cpp's `/tokenize`,
transformers' encodings, this lab's prompt files. The first comes first: an answer's own `token_ids` are the reply."""

INSIDE = ("choices", "outputs", "data", "result", "response", "meta_info")
"""Where an answer nests them."""


@dataclass(frozen=True)
class FedPrompt:
    """What an engine fed. counted: the number of prompt tokens that it reports itself, None where it reports none.
    source: where the ids come from, in words."""

    ids: tuple[int, ...]
    source: str
    counted: int | None = None

    def __post_init__(self) -> None:
        wrong = next((one for one in self.ids if isinstance(one, bool) or not isinstance(one, int) or one < 0), None)
        if not self.ids or wrong is not None:
            raise _no_ids(self.source, "no id" if wrong is None else f"{wrong!r}")


def read_fed(path: Path) -> FedPrompt:
    """The ids in a file: JSON (a list, or an object as servers answer it), or numbers between commas and spaces.

    Raises UsageError for a file without ids, and for several prompts in one.
    """
    place = f"ids file {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _no_ids(place, f"{type(error).__name__}: {error}"[:200]) from error
    if re.fullmatch(r"[\s\d,\[\]]+", text) and not text.lstrip().startswith("["):
        return FedPrompt(tuple(int(number) for number in re.findall(r"\d+", text)), place)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_ids(place, f"{type(error).__name__}: {error}"[:200]) from error
    return fed_from_json(content, source=place)


def fed_from_json(content: Any, *, source: str) -> FedPrompt:
    """The ids in a server's answer. Raises UsageError when there are none, or several prompts."""
    found = _ids(content, depth=0)
    if found is None:
        keys = ", ".join(sorted(content)[:12]) if isinstance(content, Mapping) else type(content).__name__
        raise _no_ids(source, f"none under {', '.join(NAMES)}; there is: {keys}")
    if found and isinstance(found[0], list):
        if len(found) > 1:
            raise _no_ids(source, f"{len(found)} prompts in one answer")
        found = found[0]
    ids: tuple[Any, ...] = tuple(one["id"] if isinstance(one, Mapping) and "id" in one else one for one in found)
    return FedPrompt(ids, source, _counted(content))


def fed_in_trace(folder: Path, request: str | None = None) -> FedPrompt:
    """The ids of a trace's request; `request` names it where there are several.

    Raises TraceError for a folder that is no trace, UsageError for a request that it lacks.
    """
    from parity.trace import open_trace

    run = open_trace(folder).run
    named = dict(zip(run.request_names, run.requests, strict=True))
    name = request if request is not None else next(iter(named)) if len(named) == 1 else None
    if name is None or name not in named:
        raise UsageError(
            place=f"trace {folder}",
            expected="one request, or its name with --request",
            found=", ".join(named) or "no request",
            next_step="Name one of them.",
        )
    return FedPrompt(tuple(named[name]), f"trace {folder}, request {name}")


def fed_by_runner(runner: Any, conversation: Conversation, *, source: str) -> FedPrompt:
    """The ids that a runner makes of the conversation itself.

    runner: with `chat` among what `describe()` says it can: `chat(messages, tools=..., **arguments) -> Request`.
    Raises RunnerError for a runner that only takes ids.
    """
    if not callable(getattr(runner, "chat", None)) or "chat" not in runner.describe().can:
        raise RunnerError(
            place=source,
            expected="a runner that renders conversations itself (`chat` among what it can)",
            found="one that takes ids only, or a model without template or tokenizer",
            next_step="Save the ids that the engine feeds, and give them with --ids.",
        )
    arguments = {name: value for name, value in conversation.arguments.items() if name not in ("messages", "tools")}
    request = runner.chat(conversation.messages, tools=conversation.tools, **arguments)
    return FedPrompt(tuple(request.ids), source, getattr(request, "counted", None))


def _ids(content: Any, depth: int) -> list[Any] | None:
    """The list of ids, or of lists of ids."""
    if isinstance(content, list):
        plain = all(isinstance(one, int) or (isinstance(one, Mapping) and "id" in one) for one in content)
        if plain or all(isinstance(one, list) for one in content):
            return content
        several = [found for one in content if (found := _ids(one, depth + 1)) is not None] if depth < 4 else []
        return several[0] if len(several) == 1 else several or None
    if isinstance(content, Mapping) and depth < 4:
        for name in NAMES:
            if isinstance(content.get(name), list) and (found := _ids(content[name], depth + 1)) is not None:
                return found
        for name in INSIDE:
            if name in content and (found := _ids(content[name], depth + 1)) is not None:
                return found
    return None


def _counted(content: Any) -> int | None:
    if not isinstance(content, Mapping):
        return None
    for inside, name in (("usage", "prompt_tokens"), ("meta_info", "prompt_tokens"), (None, "count"),
                         (None, "prompt_tokens"), ("usage", "input_tokens"), (None, "tokens_evaluated")):  # fmt: skip
        held = content if inside is None else content.get(inside)
        value = held.get(name) if isinstance(held, Mapping) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _no_ids(place: str, found: str) -> UsageError:
    return UsageError(
        place=place,
        expected="the ids of one prompt: a JSON list, or a server's answer with prompt_token_ids or tokens",
        found=found,
        next_step="Ask the server for them (return_token_ids, or its /tokenize), or print what the engine feeds.",
    )
