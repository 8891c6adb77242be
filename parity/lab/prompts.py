"""What may a prompt be given as? A request, token ids, or a prompt file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parity.errors import UsageError
from parity.promptfile import read_prompt
from parity.runner import Request


def as_request(prompt: Request | Sequence[int] | str | Path, place: str) -> Request:
    """The request that `prompt` stands for: itself, a JSON file with `ids`, or ids as they are.

    Raises UsageError for text that names no file (ids are not made of it: the engine's own tokenizer must), and for
    anything that is no sequence of whole numbers.
    """
    if isinstance(prompt, Request):
        return prompt
    if isinstance(prompt, str) and not Path(prompt).is_file():
        raise UsageError(
            place=place,
            expected="a Request, token ids, or the path of a JSON file with `ids`",
            found=f"text that names no file: {prompt[:60]!r}",
            next_step="Tokenize it with the model's own tokenizer, or name a file; fixtures/prompts has some.",
        )
    if isinstance(prompt, (str, Path)):
        return read_prompt(Path(prompt)).request
    return Request("ids", tuple(prompt))
