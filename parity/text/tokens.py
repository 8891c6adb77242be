"""What are the tokens of a text for which no ids are known, and which of them are numbers or words?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_PARTS = re.compile(r"\d+|[^\W\d_]+|\n|[^\S\n]+|_+|(.)\1*", re.DOTALL)
"""Runs of digits, runs of letters, one newline, runs of blanks, runs of one other character: a rule of 80 dashes is
one token, as it is for most tokenizers."""


@dataclass(frozen=True)
class TokenText:
    """A text as tokens.

    codes: [N] int32, equal exactly where the tokens are. strings: the tokens, None where only ids are known.
    """

    codes: NDArray[np.int32]
    strings: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def text(self) -> str | None:
        """All tokens joined, None for bare ids."""
        return None if self.strings is None else "".join(self.strings)

    @cached_property
    def without_numbers(self) -> NDArray[np.int32]:
        """The codes with every run of digits, and every English number word, as one and the same token; the codes
        themselves for bare ids."""
        if self.strings is None:
            return self.codes
        known = {
            string: "0" if string.isdecimal() or is_number_word(string) else _DIGITS.sub("0", string)
            for string in set(self.strings)
        }
        return _codes([known[string] for string in self.strings])

    @cached_property
    def is_word(self) -> NDArray[np.bool_]:
        """[N], tokens that hold letters and nothing but letters and blanks, number words and the constants of data
        formats excepted; all of them for bare ids."""
        if self.strings is None:
            return np.ones(len(self), bool)
        known: dict[str, bool] = {}
        for string in self.strings:
            if string not in known:
                plain = string.strip()
                known[string] = plain.isalpha() and plain.lower() not in _CONSTANTS and not is_number_word(string)
        return np.array([known[string] for string in self.strings], bool)

    @cached_property
    def is_blank(self) -> NDArray[np.bool_]:
        """[N], tokens of blanks without a newline."""
        if self.strings is None:
            return np.zeros(len(self), bool)
        return np.array([string.isspace() and "\n" not in string for string in self.strings], bool)


_CONSTANTS = frozenset({"true", "false", "null", "none", "nil", "nan", "undefined"})

_DIGITS = re.compile(r"\d+")

_NUMBER_WORDS = re.compile(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    "(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million",
    re.IGNORECASE,
)


def is_number_word(string: str) -> bool:
    """Whether a token spells a number in English: counting in words is counting."""
    plain = string.strip()
    return plain.isalpha() and _NUMBER_WORDS.fullmatch(plain) is not None


LONGEST_WORD, LONGEST_RUN = 40, 256
"""Letters or digits, and equal characters, up to which a run is one token. The longest words of languages that write
blanks are shorter, and so are the rules that people draw; a longer run may be a loop in itself."""


def split_text(text: str) -> TokenText:
    """A text cut by character class, runs too long for a word by character; joined again it is the same text."""
    parts: list[str] = []
    for match in _PARTS.finditer(text):
        part = match.group()
        if len(part) > (LONGEST_WORD if part[0].isalnum() else LONGEST_RUN):
            parts += part
        else:
            parts.append(part)
    return from_strings(parts)


def from_strings(strings: Sequence[str]) -> TokenText:
    """Tokens as a tokenizer spells them."""
    return TokenText(_codes(strings), tuple(strings))


def from_ids(ids: Sequence[int]) -> TokenText:
    """Token ids whose spelling is not known."""
    return TokenText(np.asarray(ids, np.int32))


def _codes(strings: Sequence[str]) -> NDArray[np.int32]:
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(string, len(numbers)) for string in strings), np.int32, len(strings))
