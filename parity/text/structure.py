"""Is a text closed? Code fences, thinking sections, sentences."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
THINKING = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"))
"""Pairs that models of several families put around their reasoning."""

_ENDS = (".", "!", "?", "…", '"', "'", "”", "’", ")", "]", "}", "`", ":", ";", ">", "*", "|", "。", "！", "？")  # noqa: RUF001


def open_fence(text: str) -> bool:
    """Whether a fenced code block is still open at the end (CommonMark 0.31, section 4.5: a closing fence has the same
    character, at least as many of them, and nothing after)."""
    fence = ""
    for match in _FENCE.finditer(text):
        marks, rest = match.groups()
        if not fence:
            if marks[0] == "~" or "`" not in rest:
                fence = marks
        elif marks[0] == fence[0] and len(marks) >= len(fence) and not rest.strip():
            fence = ""
    return bool(fence)


def open_thinking(text: str) -> bool:
    """Whether a thinking section was opened, and never closed after."""
    return any(text.rfind(start) > text.rfind(end) for start, end in THINKING)


def ends_in_a_sentence(text: str) -> bool:
    """Whether the last visible character can end a text; a text without visible characters ends nowhere."""
    return text.rstrip().endswith(_ENDS)
