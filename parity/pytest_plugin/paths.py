"""Where does the golden of a check lie? Beside the test, under names that any file system takes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

FOLDER = "goldens"
LONGEST = 150
"""Most characters of a file's name without its ending: file systems take 255 bytes, archives and Windows less."""

CLAIMED = pytest.StashKey[dict[str, str]]()
"""Of the session: which test has which file, by the file's name in lower case."""

WRITTEN = pytest.StashKey[set[Path]]()
"""Goldens that were missing and were written in this session: a test that is run again still fails."""


def test_id(node: pytest.Item) -> str:
    """`test_engine::TestForward::test_logits[bf16]`: without folders, so that a test's folder may move."""
    chain = node.listchain()
    at = max(n for n, one in enumerate(chain) if isinstance(one, pytest.File))
    return "::".join([node.path.stem, *(one.name for one in chain[at + 1 :])])


def golden_path(node: pytest.Item, name: str | None) -> Path:
    """`goldens/MODULE/TEST.safetensors` in the test's folder, `TEST--NAME` for a named check."""
    module, _, test = test_id(node).partition("::")
    stem = safe_name(test) if name is None else f"{safe_name(test)}--{safe_name(name)}"
    return node.path.parent / FOLDER / safe_name(module) / f"{shorten(stem)}.safetensors"


def safe_name(text: str) -> str:
    """Letters, digits and `._=+-` stay, `::` becomes a dot, brackets and everything else `-` and `_`.

    Different texts may come out alike; the golden says which test it belongs to, and another one is refused.
    """
    plain = re.sub(r"\[(.*)\]$", r"-\1", text.replace("::", "."), flags=re.DOTALL)
    plain = re.sub(r"[^A-Za-z0-9._=+-]+", "_", plain)
    return re.sub(r"^\.+", "_", plain) or "_"


def shorten(stem: str) -> str:
    """The stem, or its beginning and a digest where it is too long."""
    if len(stem) <= LONGEST:
        return stem
    return f"{stem[: LONGEST - 17]}-{hashlib.blake2b(stem.encode(), digest_size=8).hexdigest()}"
