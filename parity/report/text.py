"""How are text that somebody else wrote, and our own numbers, put into words? Nothing hidden, not without end."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 2000
"""Characters of one text that a report shows; the rest is counted."""

_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "\\r"}


def visible(text: str, *, blanks: bool = False) -> str:
    """`text` with every newline, control character, bidirectional override and lone surrogate to be seen.

    blanks: spaces as dots too, for tokens. What `str.isprintable` calls printable stays, U+FFFD included.
    """
    return "".join(_shown(letter, blanks) for letter in text)


def _shown(letter: str, blanks: bool) -> str:
    if letter in _SIGNS:
        return _SIGNS[letter]
    if letter == " ":
        return "·" if blanks else " "
    if letter.isprintable():
        return letter
    return f"\\x{ord(letter):02x}" if ord(letter) < 0x100 else f"\\u{ord(letter):04x}"


def shorten(text: str, most: int = LONGEST) -> str:
    """At most `most` characters; of a longer text the beginning, and where there is room how many are left out."""
    if len(text) <= most:
        return text
    note = f"… ({len(text):,} characters)"
    return text[: most - len(note)] + note if most > 2 * len(note) else text[: most - 1] + "…"


def spans(numbers: Sequence[int]) -> str:
    """`0 to 3 and 7` for 0, 1, 2, 3, 7; `0, 2 and 3` for 0, 2, 3; empty for none."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    pairs = [[str(a)] if a == b else [str(a), str(b)] if b == a + 1 else [f"{a} to {b}"] for a, b in runs]
    words = [word for pair in pairs for word in pair]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def times(value: float) -> str:
    """A multiple of the floor for a sentence: `0.62`, `8.4`, `350`."""
    return f"{value:.2g}" if value < 9.5 else f"{value:.0f}"


def count(number: int, noun: str) -> str:
    """`1 site`, `3 sites`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed_names(names: Sequence[str], most: int = 3) -> str:
    """`a`, `a and b`, or the first few and how many more."""
    if len(names) > most:
        return ", ".join(names[:most]) + f" and {len(names) - most} more"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else "nothing"
