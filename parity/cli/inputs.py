"""How are a prompt, a list of numbers and a runner's options spelled on the command line?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from parity.errors import UsageError
from parity.runner import Request

PromptFile = Annotated[Path | None, typer.Option("--prompt", help="JSON file with `ids` and, if you like, `name`.")]
Ids = Annotated[str | None, typer.Option("--ids", help="Token ids, separated by commas.")]


def read_request(prompt: Path | None, ids: str | None) -> Request:
    """The request that `--prompt FILE` or `--ids 1,2,3` names; UsageError unless exactly one is given and readable."""
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
    try:
        content = json.loads(prompt.read_text())
        return Request(str(content.get("name", prompt.stem)), tuple(content["ids"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            place=f"prompt file {prompt}",
            expected='a JSON object like {"name": "hello", "ids": [1, 2, 3]}',
            found=f"{type(error).__name__}: {error}",
            next_step="Tokenize the text with the model's own tokenizer, and keep the ids.",
        ) from error


def parse_numbers(text: str, *, place: str) -> tuple[int, ...]:
    """`0,2-4` as (0, 2, 3, 4); UsageError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            low, high = 0, -1
        if high < low:
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
