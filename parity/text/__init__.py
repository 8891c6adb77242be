"""Degeneration of decoded text: loops, nonsense, early ends."""

from __future__ import annotations

from parity.text.loops import Loop, Repetition, find_loop, find_repetition
from parity.text.score import Completion, TextScore, read_completion, score_text
from parity.text.tokens import TokenText, from_ids, from_strings, split_text

__all__ = [
    "Completion",
    "Loop",
    "Repetition",
    "TextScore",
    "TokenText",
    "find_loop",
    "find_repetition",
    "from_ids",
    "from_strings",
    "read_completion",
    "score_text",
    "split_text",
]
