"""What does a prompt file hold? JSON with `ids`, and a name and a source where it has them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from parity.errors import UsageError
from parity.runner import Request


@dataclass(frozen=True)
class PromptText:
    """A prompt file. document: what it was cut from, the path at the end of its `source`; the name without one."""

    name: str
    document: str
    ids: tuple[int, ...]

    @property
    def request(self) -> Request:
        return Request(self.name, self.ids)


def read_prompt(path: Path) -> PromptText:
    """The prompt in a JSON file with `ids`, a list of whole numbers, and, where it has them, `name` and `source`.

    Raises UsageError for a file of another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, ids = str(content.get("name", path.stem)), content["ids"]
        if not isinstance(ids, list):
            raise TypeError(f"ids are a {type(ids).__name__}, not a list")
        document = str(content.get("source", name)).rsplit(", ", 1)[-1]
    except OSError as error:
        raise UsageError(
            place=f"prompt {path}",
            expected="a JSON file with a prompt's ids, or a folder of such files",
            found=(error.strerror or str(error)).lower(),
            next_step="Check the path.",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            place=f"prompt file {path}",
            expected='a JSON object like {"name": "hello", "ids": [1, 2, 3]}, with `ids` a list of token ids',
            found=f"{type(error).__name__}: {error}",
            next_step="Tokenize the text with the model's own tokenizer, and keep the ids: "
            'transformers.AutoTokenizer.from_pretrained("MODEL")("the text").input_ids',
        ) from error
    return PromptText(name, document, Request(name, tuple(ids)).ids)
