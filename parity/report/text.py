"""How is text that somebody else wrote shown? On one line, nothing hidden in it, and not without end."""

from __future__ import annotations

LONGEST = 2000
"""Characters of one text that a report shows; the rest is counted."""

_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


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
