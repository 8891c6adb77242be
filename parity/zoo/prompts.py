"""Which prompt does a case run? Drawn from a pool by a seed, never from a document that the floor has seen."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from parity.errors import UsageError
from parity.floor import Floor
from parity.promptfile import PromptText, read_prompt
from parity.runner import Request, Schedule

SHORTEST = 32
"""Shortest window of a clean run: below, most slices of experts and heads have no floor of their size."""

CHUNKS = (None, None, 64, 100, 128, 257)
"""Prefill chunks of clean runs: whole, multiples of a tile's 64 rows, and others."""

DECODES = (0, 0, 0, 4)
"""Ids at the end of a clean run's prompt that are fed one by one."""


def read_pool(folders: Sequence[Path], *, vocab: int | None = None) -> list[PromptText]:
    """Every prompt of the folders, by name; those with ids beyond a vocabulary of `vocab` are left out.

    A prompt is a JSON file with `ids`, and `name` and `source` where it has them. Raises UsageError for a folder
    without any and for a file of another form.
    """
    pool = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        prompt = read_prompt(path)
        if prompt.ids and (vocab is None or max(prompt.ids) < vocab):
            pool.append(prompt)
    if not pool:
        raise UsageError(
            place="zoo prompts",
            expected="JSON files with token ids of the model's vocabulary in " + ", ".join(map(str, folders)),
            found="none",
            next_step="Name another folder with --prompts.",
        )
    return sorted(pool, key=lambda prompt: prompt.name)


def apart_from(pool: Iterable[PromptText], floor: Floor) -> list[PromptText]:
    """The prompts of documents that the floor was not calibrated on."""
    seen = {document.partition("#")[0] for document in floor.documents}
    return [prompt for prompt in pool if prompt.document not in seen and prompt.name not in seen]


def draw_prompt(pool: Sequence[PromptText], seed: str, tokens: tuple[int, int]) -> Request:
    """The beginning of a prompt of the pool, `tokens` (least, most) long; the same for the same seed and pool.

    Raises UsageError when no prompt of the pool is long enough.
    """
    drawn = random.Random(f"prompt of {seed}")
    long_enough = [prompt for prompt in pool if len(prompt.ids) >= tokens[0]]
    if not long_enough:
        raise UsageError(
            place="zoo prompts",
            expected=f"a prompt of at least {tokens[0]} tokens",
            found=f"at most {max((len(prompt.ids) for prompt in pool), default=0)} among {len(pool)} prompts",
            next_step="Name a folder of longer prompts with --prompts, or ask for shorter ones with --tokens.",
        )
    prompt = drawn.choice(long_enough)
    length = drawn.randint(tokens[0], min(tokens[1], len(prompt.ids)))
    return Request(f"{prompt.name}[:{length}]", prompt.ids[:length])


def draw_window(pool: Sequence[PromptText], number: int, most: int) -> tuple[Request, Schedule]:
    """Clean run `number`: a window of a prompt, of its own length and offset, fed in its own way.

    Prompts take turns, so that as few runs as possible share a document.
    """
    usable = [prompt for prompt in pool if len(prompt.ids) >= min(SHORTEST, most)] or list(pool)
    random.Random("clean runs").shuffle(usable)
    prompt, drawn = usable[number % len(usable)], random.Random(f"clean run {number}")
    longest = min(most, len(prompt.ids))
    shortest = min(SHORTEST, longest)
    length = round(math.exp(drawn.uniform(math.log(shortest), math.log(longest))))
    start = drawn.randint(0, len(prompt.ids) - length)
    chunk = drawn.choice([chunk for chunk in CHUNKS if chunk is None or chunk < length])
    decode = drawn.choice([count for count in DECODES if count < length])
    request = Request(f"{prompt.name}[{start}:{start + length}]", prompt.ids[start : start + length])
    return request, Schedule(chunk=chunk, decode=decode)
