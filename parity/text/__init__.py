"""Degeneration of decoded text: loops, nonsense, early ends."""

from __future__ import annotations

from parity.text.loops import Loop, find_loop
from parity.text.score import Completion, TextScore, read_completion, score_text
from parity.text.tokens import TokenText, from_ids, from_strings, split_text

__all__ = [
    "Completion",
    "Loop",
    "TextScore",
    "TokenText",
    "find_loop",
    "from_ids",
    "from_strings",
    "read_completion",
    "score_text",
    "split_text",
]
