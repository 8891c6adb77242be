"""Which ids does a server make of a conversation? By its chat endpoint if it tells them, else by its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from parity.errors import RunnerError
from parity.prompt.fed import NAMES
from parity.runner import Request
from parity_oracles.http.client import Client, Refusal

TOP_LEVEL = ("add_generation_prompt", "continue_final_message", "documents")
"""Arguments of a template that servers take beside the messages; the others go into `chat_template_kwargs`."""


@dataclass(frozen=True)
class CountedRequest(Request):
    """A request with the number of prompt tokens that the server counted, None where it told none."""

    counted: int | None = None


def ask_chat(
    client: Client, model: str, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] = (),
    **arguments: Any,
) -> CountedRequest:  # fmt: skip
    """The request that a conversation becomes on the server.

    First `/chat/completions` with `return_token_ids`, which tells what was fed; then `/tokenize` of the messages
    (vLLM); then `/apply-template` and `/tokenize` of its text (llama.cpp). Raises RunnerError where none gives ids.
    """
    beside = {name: value for name, value in arguments.items() if name in TOP_LEVEL}
    inside = {name: value for name, value in arguments.items() if name not in TOP_LEVEL}
    body: dict[str, Any] = {"model": model, "messages": list(messages), **beside}
    body |= {"tools": list(tools)} if tools else {}
    body |= {"chat_template_kwargs": inside} if inside else {}
    tried = []
    root, counted = client.address.root, None
    fed = {**body, "max_tokens": 1, "temperature": 0, "stream": False, "return_token_ids": True}
    answer = _try(client, client.address.base + "/chat/completions", fed, tried)
    if answer is not None:
        usage = answer.get("usage")
        counted = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
        counted = counted if isinstance(counted, int) else None
        choices = answer.get("choices")
        inner = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
        ids = answer.get("prompt_token_ids", inner.get("prompt_token_ids"))
        if _are_ids(ids):
            return CountedRequest("conversation", tuple(ids), counted=counted)
        tried.append("/chat/completions tells no prompt_token_ids")
    answer = _try(client, root + "/tokenize", body, tried)
    ids = None if answer is None else _ids(answer)
    if not ids:
        if answer is not None:
            tried.append("/tokenize gives no ids for messages")
        template = _try(client, root + "/apply-template", body, tried)
        text = None if template is None else template.get("prompt")
        if isinstance(text, str):
            asked = {"content": text, "add_special": True, "parse_special": True}
            ids = _ids(_try(client, root + "/tokenize", asked, tried) or {})
    if not ids:
        raise RunnerError(
            place=f"conversation on {client.address.base}",
            expected="the ids that it becomes",
            found="; ".join(tried) or "none",
            next_step="Print the ids that the engine feeds, and give them with --ids.",
        )
    return CountedRequest("conversation", tuple(ids), counted=counted)


def _try(client: Client, url: str, body: Mapping[str, Any], tried: list[str]) -> Mapping[str, Any] | None:
    """The object that the server answers with; None, and a word in `tried`, where it does not know the question."""
    path = url.removeprefix(client.address.root)
    try:
        answer = client.post(url, body)
    except Refusal as refusal:
        if refusal.status not in (400, 404, 405, 422, 501):
            raise
        tried.append(f"{path}: {refusal.found}"[:160])
        return None
    if isinstance(answer, Mapping):
        return answer
    tried.append(f"{path} answers no object")
    return None


def _ids(answer: Mapping[str, Any]) -> list[int] | None:
    for name in NAMES:
        found = answer.get(name)
        if isinstance(found, list):
            plain: list[Any] = [one.get("id") if isinstance(one, Mapping) else one for one in found]
            if _are_ids(plain):
                return plain
    return None


def _are_ids(value: Any) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value)
    )
