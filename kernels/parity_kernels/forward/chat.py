"""What text does a conversation become? The engine's own rendering of the chat template beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from parity.errors import ConfigError, RunnerError, UsageError
from parity.faults import Prompt
from parity.runner import Request
from parity_kernels.forward.tokenizer import Tokenizer


class Chat:
    """Conversations to ids, by the tokenizer and template of a model folder."""

    def __init__(self, folder: Path, tokenizer: Tokenizer | None, change: Any = None) -> None:
        """change: a planted fault's change of each prompt before it is fed."""
        self.folder = folder
        self.tokenizer = tokenizer
        self.change = change
        self.template = find_template(folder)

    @property
    def ready(self) -> bool:
        """Whether there is a template and a tokenizer to feed its text through."""
        return self.template is not None and self.tokenizer is not None

    def request(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        name: str,
        tools: Sequence[Mapping[str, Any]] = (),
        **options: Any,
    ) -> Request:
        """The request that a conversation becomes. Raises RunnerError without a template or tokenizer."""
        prompt = Prompt(tuple(messages), tuple(tools), options, self.folder, self.template, render)
        if self.change is not None:
            prompt = self.change(prompt)
        if self.tokenizer is None or prompt.ids is not None:
            raise RunnerError(
                place=f"conversation {name}",
                expected="a tokenizer beside the weights, and a conversation",
                found="no tokenizer" if self.tokenizer is None else "ids",
                next_step="Feed token ids, or install the tokenizers library.",
            )
        return Request(name, self.tokenizer.encode(prompt.rendered()))

    def fed(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Requests given as ids, as they are fed."""
        if self.change is None:
            return requests
        changed = [self.change(Prompt(folder=self.folder, ids=request.ids)).ids for request in requests]
        return [replace(r, ids=r.ids if ids is None else ids) for r, ids in zip(requests, changed, strict=True)]


def find_template(folder: Path) -> str | None:
    """The chat template of a model folder: `chat_template.jinja`, else `tokenizer_config.json`'s; None without either.

    Raises ConfigError for files that cannot be read.
    """
    beside, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    path = beside if beside.is_file() else config
    try:
        if path is beside:
            return path.read_text()
        content = json.loads(path.read_text()) if path.is_file() else {}
        found = content.get("chat_template")
        if isinstance(found, list):  # several by name, as HF also stores them
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            place=str(path),
            expected="a chat template, or JSON that may hold one",
            found=f"{type(error).__name__}: {error}",
            next_step="Correct the file, or remove it to feed token ids only.",
        ) from error
    return found if isinstance(found, str) else None


def render(prompt: Prompt) -> str:
    """The text of a conversation, assistant priming included; spaces as HF's renderer trims them.

    Raises UsageError without a template, and when the template refuses the conversation.
    """
    if prompt.template is None:
        raise UsageError(
            place="conversation",
            expected="a chat template",
            found="none beside the weights",
            next_step="Add chat_template.jinja to the model folder, or feed token ids.",
        )
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    options = {"add_generation_prompt": True, **prompt.options}
    try:
        template = environment.from_string(prompt.template)
        return template.render(messages=list(prompt.messages), tools=list(prompt.tools) or None, **options)
    except TemplateError as error:
        raise UsageError(
            place="chat template",
            expected="a conversation that it accepts",
            found=str(error),
            next_step="Check the roles and contents of the messages.",
        ) from error
