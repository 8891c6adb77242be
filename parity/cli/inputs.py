"""How are a prompt, a list of numbers and a runner's options spelled on the command line?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parity.errors import RunnerError, UsageError

if TYPE_CHECKING:
    from parity.runner import Request

Options = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="An option of the runner, KEY=VALUE; repeat for more.")
]
MOST = 1_000_000
"""Longest range of numbers; a slip of the finger must not fill the memory."""
PromptFile = Annotated[Path | None, typer.Option("--prompt", help="JSON file with `ids` and, if you like, `name`.")]
Ids = Annotated[str | None, typer.Option("--ids", help="Token ids, separated by commas.")]


def read_request(prompt: Path | None, ids: str | None, *, model: str | None = None) -> Request:
    """The request that `--prompt FILE` or `--ids 1,2,3` names; UsageError unless exactly one is given and readable.

    FILE is JSON when it ends in .json, else text for the tokenizer of the folder `model`, where there is one.
    """
    # Runners bring torch, which takes seconds: a command line that asks for help or names no model must not wait.
    from parity.promptfile import read_prompt
    from parity.runner import Request

    if (prompt is None) == (ids is None):
        raise UsageError(
            place="prompt",
            expected="either --prompt FILE or --ids 1,2,3",
            found="both" if prompt is not None else "neither",
            next_step="Give one of them; shipped prompts are in fixtures/prompts.",
        )
    if ids is not None:
        return Request("ids", parse_numbers(ids, place="--ids"))
    assert prompt is not None
    if prompt.suffix != ".json" and model is not None:
        return tokenize_file(prompt, Path(model))
    return read_prompt(prompt).request


def tokenize_file(prompt: Path, model: Path) -> Request:
    """The text in file `prompt` as ids of the tokenizer.json in folder `model`; no special token is added.

    Raises UsageError for a file that is no text or is empty, and for a folder without a tokenizer, RunnerError without
    the `tokenizers` library.
    """
    from parity.runner import Request

    path = model / "tokenizer.json"
    try:
        text = prompt.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            place=f"prompt file {prompt}",
            expected="readable UTF-8 text, or JSON with `ids` in a file called .json",
            found=getattr(error, "strerror", None) or str(error),
            next_step="Name another file, or give --ids.",
        ) from error
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise RunnerError(
            place="library tokenizers",
            expected="it to be installed, to make ids of a text",
            found=str(error),
            next_step="Install the extra `hf`, or give ids.",
        ) from error
    try:
        found = Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids
    except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
        raise UsageError(
            place=f"prompt file {prompt}",
            expected=f"a tokenizer for its text in {path}",
            found=str(error)[:200] if path.is_file() else "no such file",
            next_step="Give a JSON file with `ids`, or --ids.",
        ) from error
    if not found:
        raise UsageError(
            place=f"prompt file {prompt}", expected="text", found="none", next_step="Name a file with a prompt in it."
        )
    return Request(prompt.stem, tuple(found))


def parse_numbers(text: str, *, place: str) -> tuple[int, ...]:
    """`0,2-4` as (0, 2, 3, 4); UsageError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            low, high = 0, -1
        if not 0 <= low <= high or high - low > MOST:
            raise UsageError(
                place=place,
                expected="whole numbers and ranges, separated by commas, such as 0,2-4",
                found=repr(text),
                next_step="Correct the list.",
            )
        found += range(low, high + 1)
    return tuple(found)


def parse_range(text: str, *, place: str) -> tuple[int, int]:
    """`a:b` as (a, b), b not included; UsageError unless 0 <= a < b."""
    first, _, last = text.partition(":")
    try:
        low, high = int(first), int(last)
    except ValueError:
        low, high = 0, 0
    if not 0 <= low < high:
        raise UsageError(
            place=place, expected="a:b with a < b, b not included", found=repr(text), next_step="Correct it."
        )
    return low, high


def parse_options(pairs: Sequence[str] | None, *, place: str = "--option") -> dict[str, Any]:
    """`name=value` pairs as a runner's options; the runner's signature decides what the values mean."""
    options = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(place=place, expected="NAME=VALUE", found=repr(pair), next_step="Correct the option.")
        options[name] = value
    return options
