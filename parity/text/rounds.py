"""What is a round made of: running prose, a stanza, a record, signs? And does a loop of such rounds count as one?

Healthy text repeats itself too: tables, code, refrains. What tells a loop from these: it fills the text to its end or
goes on for very long; and where numbers or words vary it repeats running prose, three words in a row and most of the
tokens words, which tables, lists, records and code do not; or its words vary anywhere, now here and now there, where
records vary in their fields (`fields`). These limits are conventions, held by the texts in tests/text; a report gives
the loop's own numbers beside them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma, log, log2

import numpy as np
from numpy.typing import NDArray

from parity.text.drift import Trail
from parity.text.fields import LEAST_BITS, SHARE, read_fields
from parity.text.matches import ROUND_RATE, measure_variation
from parity.text.numbers import read_numbers
from parity.text.tokens import TokenText

PROSE_WORDS, PROSE_SHARE = 3, 0.6
"""Words in a row, and words among the tokens that are not blank, of a round of prose: English has about one mark in
eight tokens; a line `Step 5: now we check the value 3.` has 6 words of 10, a record `"id": 5, "name": "x"` 3 of 13."""

LEAST_TOKENS = {"exact": 48, "template": 96, "fuzzy": 128}
LEAST_REPEATS = {"exact": 4.0, "template": 12.0, "fuzzy": 4.0}
"""Of a loop that goes on to the end of the text."""

PARAGRAPH_WORDS = 40
"""Words in rows of PROSE_WORDS and more, from which a round is a paragraph: tables and logs have lines. A paragraph of
which only numbers change is a loop after as many rounds as an exact one, though names and paths stand in it."""

WORDS_CHANGED = 1 / 8
"""Words among the tokens that change in a fuzzy loop: where they are fewer it is numbers that vary."""

TIGHT_SHARE = 1 / 8
"""Marks as prose never sets them (a comma, dot or opening bracket without a blank, underscores, equals signs), per
word, from which a round is a record or code: as many as prose has marks of all kinds."""

BLOCK_WORDS = PARAGRAPH_WORDS // 2
"""Words of a round of code from which it is a block, and no row or record on a line of its own."""

LONGEST_NUMBER = 20
"""Digits of a number that may tell a time: nanoseconds since 1970 have 19."""

STANZA_LINES, LINE_WORDS = 3, 12
"""Lines of a round, and words of each, from which a round that varies is a stanza: a song may have LEAST_REPEATS of a
template of them."""

WORDLESS_REPEATS = 16.0
"""Of an exact loop without a word in it, which then runs to the very end: rows of a table can be the same a few times,
and a list of zeros that is closed is a list."""

LASTING_TOKENS, LASTING_REPEATS = 256, 8.0
"""Of an exact loop that ends before the text does."""

SURE = 10.0
"""Bits by which a text is shorter described as one that varies anywhere: odds of a thousand to one against a form."""

EXCEPTIONS = 0.7
"""Share of the words that vary which are exceptions from what the rounds around agree on, in a loop; a field that
holds one of five values looks like one in 44 of 100 rounds, a field of three in 75."""

LOOKED_AT = 4096
"""Tokens of a loop in which exceptions are counted."""


@dataclass(frozen=True)
class Loop:
    """kind: `exact`, `template` or `fuzzy`. period: in tokens. start: first token of the first round. end: first token
    after the loop. rate: share of tokens that repeat. to_end: nothing follows it."""

    kind: str
    period: int
    start: int
    end: int
    rate: float
    to_end: bool

    @property
    def repeats(self) -> float:
        """Rounds, the first included."""
        return (self.end - self.start) / self.period


def counts_as_loop(loop: Loop, text: TokenText) -> bool:
    """Whether it is long enough for its kind, and made of what tables, records, code and songs are not made of."""
    tokens = loop.end - loop.start
    if loop.kind == "exact":
        once = slice(loop.start, loop.start + loop.period)
        if not (tokens >= LASTING_TOKENS and loop.repeats >= LASTING_REPEATS) and not long_enough(loop):
            return False
        return _worded(text, once) or (loop.end == len(text) and loop.repeats >= WORDLESS_REPEATS)
    if text.strings is None or not long_enough(loop, LEAST_REPEATS["exact"]):
        return False
    twice = slice(loop.start, loop.start + 2 * loop.period)  # a row of words may cross the end of the round
    if loop.kind == "template":
        if _words_in_rows(text, twice) >= 2 * PARAGRAPH_WORDS and not _made_of_shorter(text, loop):
            return True
        return loop.repeats >= LEAST_REPEATS["template"] and (_prose(text, twice) or _idle_block(text, loop))
    stanza = loop.repeats < LEAST_REPEATS["template"] and _stanza(text, twice)
    return not stanza and _prose(text, twice)


def _idle_block(text: TokenText, loop: Loop) -> bool:
    """Whether the round is a block of BLOCK_WORDS words, of prose or not, in which only numbers vary, that say too
    little for a table or records (the limits of `fields`), and none of them counts or tells a time."""
    if int(text.is_word[loop.start : loop.start + loop.period].sum()) < BLOCK_WORDS or _made_of_shorter(text, loop):
        return False
    fields = read_fields(text, slice(loop.start, min(loop.end, loop.start + LOOKED_AT)), loop.period)
    if fields is None or fields.bits >= LEAST_BITS or fields.share >= SHARE:
        return False
    return not _has_a_clock((text.strings or ())[loop.start : loop.end], loop.period)


def _has_a_clock(strings: Sequence[str], period: int) -> bool:
    """Whether a number never goes down, in an order that chance gives once in 2^SURE: a time, a counter, a key."""
    whole = len(strings) // period * period
    columns = [strings[at:whole:period] for at in range(period)]
    numbers = [column for column in columns if all(one.isdecimal() and len(one) < LONGEST_NUMBER for one in column)]
    for column in numbers:
        values = [int(one) for one in column]
        ties = sum(lgamma(count + 1) for count in Counter(values).values())
        orders = (lgamma(len(values) + 1) - ties) / log(2)
        if values == sorted(values) and orders >= SURE + log2(len(numbers)):
            return True
    return False


def varies_anywhere(loop: Loop, text: TokenText, trail: Trail | None = None) -> bool:
    """Whether what varies in a fuzzy loop, of prose or not, are words anywhere, and no fields of a form. trail: along
    which its rounds were followed, where their length is not the same."""
    followed = None if trail is None else (trail.same, trail.lags)
    fields = read_fields(text, slice(loop.start, min(loop.end, loop.start + LOOKED_AT)), loop.period, followed)
    if fields is not None and fields.gain <= -SURE:
        # Lists of single names repeat their marks and blanks, and no word.
        return fields.worded and fields.share <= 1 - ROUND_RATE
    twice = slice(loop.start, loop.start + 2 * loop.period)
    if text.strings is None or not _words_in_rows(text, twice) or (fields is not None and fields.gain > 0):
        return False
    return measure_variation(_part(loop, text), loop.period).exceptions >= EXCEPTIONS


def _part(loop: Loop, text: TokenText) -> NDArray[np.int32]:
    return text.codes[loop.start : min(loop.end, loop.start + LOOKED_AT)]


def long_enough(loop: Loop, least: float | None = None) -> bool:
    """Whether it goes on to the end of the text, for as many tokens and rounds as its kind asks (or `least` rounds)."""
    return (
        loop.to_end
        and loop.end - loop.start >= LEAST_TOKENS[loop.kind]
        and loop.repeats >= (LEAST_REPEATS[loop.kind] if least is None else least)
    )


def _worded(text: TokenText, once: slice) -> bool:
    """Whether a round holds a word; a single Latin letter between marks, as in 0x00, is none."""
    if text.strings is None:
        return True
    inside = zip(text.strings[once], text.is_word[once].tolist(), strict=True)
    return any(word and (len(string.strip()) > 1 or not string.strip().isascii()) for string, word in inside)


def _prose(text: TokenText, twice: slice) -> bool:
    """Whether a round has PROSE_WORDS words in a row, is PROSE_SHARE words, and is not set as records are."""
    if _tight(text, twice):
        return False
    if not _words_in_rows(text, twice):
        return False
    strings, words = (text.strings or ())[twice], int(text.is_word[twice].sum())
    written = sum(not string.isspace() for string in strings)
    if words >= PROSE_SHARE * max(written, 1):
        return True
    # What numbers the rounds belongs to none of them: `3.` before a line, and the mark behind it.
    labels = sum(number.label for number in read_numbers("".join(strings)))
    return labels > 0 and words >= PROSE_SHARE * max(written - 2 * labels, 1)


def _made_of_shorter(text: TokenText, loop: Loop) -> bool:
    """Whether the round is several lines of one template, which then is what has to count."""
    part = text.without_numbers[loop.start : loop.start + 2 * loop.period]
    shorter = (n for n in range(1, loop.period // 2 + 1) if loop.period % n == 0)
    return any(np.array_equal(part[n:], part[:-n]) for n in shorter)


def _words_in_rows(text: TokenText, part: slice) -> int:
    """Words of which PROSE_WORDS or more stand in a row with nothing but blanks between them."""
    row = total = 0
    for word, blank in zip([*text.is_word[part].tolist(), False], [*text.is_blank[part].tolist(), False], strict=True):
        if word:
            row += 1
        elif not blank:
            total += row if row >= PROSE_WORDS else 0
            row = 0
    return total


_TIGHT = re.compile(r"[,;](?=[^\W\d])|\w\.(?=[a-z])|\w\(|_|[{}=<>|\\\t]")


def _tight(text: TokenText, once: slice) -> bool:
    """Whether the marks of two rounds are set as records and code set them."""
    marks = len(_TIGHT.findall("".join((text.strings or ())[once])))
    return marks > TIGHT_SHARE * int(text.is_word[once].sum())


def _stanza(text: TokenText, once: slice) -> bool:
    """Whether a round is several short lines that say different things; `once` holds two rounds."""
    strings, is_word = (text.strings or ())[once], text.is_word[once]
    lines = sum("\n" in string for string in strings)
    half = len(strings) // 2
    words = [string.strip() for string, word in zip(strings[:half], is_word[:half].tolist(), strict=True) if word]
    if lines < 2 * STANZA_LINES or 2 * len(words) > LINE_WORDS * lines:
        return False
    return len(set(words)) * STANZA_LINES > len(words)  # a line that is said so many times over is no stanza
