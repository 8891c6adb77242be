"""Does a text fall into a loop, with which period, and from which token on?

A loop of period p is a stretch in which tokens equal the tokens p before them. For every lag up to MAX_PERIOD the
matches are counted in blocks of BLOCK tokens (time and memory linear in the text), stretches of matching blocks are the
candidates, and their ends are then found token by token. Three kinds:

exact     every token matches.
template  every token matches once numbers are taken as equal: a line that repeats with other numbers in it.
fuzzy     FUZZY_RATE of the tokens match, at a lag that may wander by two tokens, or a 32nd; words vary, not numbers
          alone.

Healthy text repeats itself too: tables, code, refrains, counting. What tells a loop from these: it fills the text to
its end or goes on for very long; and where numbers or words vary it repeats running prose, three words in a row and
most of the tokens words, which tables, lists, records and code do not. These limits are conventions, held by the texts
in tests/text; a report gives the loop's own numbers beside them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity.text.tokens import TokenText

MAX_PERIOD = 512
BLOCK = 16  # the matches of a block are the bits of one 16-bit word
FUZZY_RATE, ROUND_RATE = 0.85, 0.75
WANDER, WANDER_SHARE = 2, 32
SMOOTHED = 5
PROSE_WORDS, PROSE_SHARE = 3, 0.6
"""Words in a row, and words among the tokens that are not blank, of a round of prose: English has about one mark in
eight tokens; a line `Step 5: now we check the value 3.` has 6 words of 10, a record `"id": 5, "name": "x"` 3 of 13."""

LEAST_TOKENS = {"exact": 48, "template": 96, "fuzzy": 128}
LEAST_REPEATS = {"exact": 4.0, "template": 12.0, "fuzzy": 4.0}
"""Of a loop that goes on to the end of the text."""

WORDS_CHANGED = 1 / 8
"""Words among the tokens that change in a fuzzy loop: where they are fewer it is numbers that vary."""

TIGHT_SHARE = 1 / 8
"""Marks as prose never sets them (a comma, dot or opening bracket without a blank, underscores, equals signs), per
word, from which a round is a record or code: as many as prose has marks of all kinds."""

STANZA_LINES, LINE_WORDS = 3, 12
"""Lines of a round, and words of each, from which a round that varies is a stanza: a song may have LEAST_REPEATS of a
template of them."""

WORDLESS_REPEATS = 16.0
"""Of an exact loop without a word in it, which then runs to the very end: rows of a table can be the same a few times,
and a list of zeros that is closed is a list."""

LASTING_TOKENS, LASTING_REPEATS = 256, 8.0
"""Of an exact loop that ends before the text does."""


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


def find_loop(text: TokenText) -> Loop | None:
    """The loop that starts first; None for a text without one. An empty text has none. Of bare ids, exact loops only:
    which of them are numbers or words is not known."""
    counts = _matches(text.codes)
    exact = _first(_loops(text.codes, counts, text, "exact"))
    if text.strings is None:
        return exact
    masked = text.without_numbers
    words = _matches(masked)
    other = _first(_loops(masked, words, text, "template") or _loops(text.codes, counts, text, "fuzzy", words))
    if exact is None or other is None:
        return exact or other
    # Rounds that vary may come to repeat exactly: the loop began with the first of them.
    return other if other.start + 2 * other.period + SMOOTHED * BLOCK < exact.start else exact


def _first(loops: list[Loop]) -> Loop | None:
    """The smallest period of those that start together is the loop; the others are its multiples."""
    return min(loops, key=lambda loop: (loop.start // (2 * BLOCK), loop.period, loop.start), default=None)


def _loops(
    codes: NDArray[np.int32],
    counts: NDArray[np.uint8],
    text: TokenText,
    kind: str,
    words: NDArray[np.uint8] | None = None,
) -> list[Loop]:
    """words: the matches once numbers are taken as equal, for a fuzzy loop."""
    rate = FUZZY_RATE if kind == "fuzzy" else 1.0
    if kind == "fuzzy":
        counts = _wandering(counts)
    found = []
    for period, first, last in _stretches(counts, rate):
        if kind == "fuzzy":
            share = float(counts[period - 1, first : last + 1].mean() / BLOCK)
            stop = (last + 1) * BLOCK
            stop = len(codes) if len(codes) - stop < BLOCK else stop
            loop = Loop(kind, period, max(first * BLOCK - period, 0), stop, share, stop >= len(codes) - _tail(period))
            if words is not None and _numbers_alone(words, loop, first, last):
                continue
        else:
            low = _extend_back(codes, first * BLOCK, period)
            stop = _extend(codes, (last + 1) * BLOCK, period)
            loop = Loop(kind, period, low - period, stop, 1.0, stop >= len(codes) - _tail(period))
        if loop.rate >= (ROUND_RATE if kind == "fuzzy" else rate) and _counts_as_loop(loop, text):
            found.append(loop)
    return found


def _numbers_alone(words: NDArray[np.uint8], loop: Loop, first: int, last: int) -> bool:
    """Whether next to nothing but numbers varies: a count or a table, unless it is a template to the very end."""
    reach = max(WANDER, loop.period // WANDER_SHARE)
    near = words[max(loop.period - 1 - reach, 0) : loop.period + reach, first : last + 1].max(axis=0)
    return 1 - near.mean() / BLOCK < WORDS_CHANGED * (1 - loop.rate)


def _wandering(counts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """For each lag and block the best of the lags around it: words that change move what follows by a few tokens."""
    best = np.empty_like(counts)
    for row in range(len(counts)):
        reach = max(WANDER, (row + 1) // WANDER_SHARE)
        counts[max(row - reach, 0) : row + reach + 1].max(axis=0, out=best[row])
    return best


def _matches(codes: NDArray[np.int32]) -> NDArray[np.uint8]:
    """[lags, blocks]: tokens of each block of BLOCK that equal the token `lag` (1, 2, ...) before; the text's remainder
    beyond the last whole block is left to `_extend`."""
    blocks = len(codes) // BLOCK
    lags = min(MAX_PERIOD, max(len(codes) - 1, 0))
    counts = np.zeros((lags, blocks), np.uint8)
    whole = blocks * BLOCK
    same = np.zeros(whole, np.uint8)
    for lag in range(1, lags + 1):
        if lag < whole:
            np.equal(codes[lag:whole], codes[: whole - lag], out=same[lag:].view(bool))
            same[:lag] = 0
            counts[lag - 1] = np.bitwise_count(np.packbits(same).view(np.uint16))
    return counts


def _stretches(counts: NDArray[np.uint8], rate: float) -> list[tuple[int, int, int]]:
    """(period, first block, last block) of every run of at least two blocks that match at that rate."""
    good = counts >= rate * BLOCK
    if rate < 1.0 and counts.shape[1] >= SMOOTHED:
        # A block or two that fit badly do not end a loop: of SMOOTHED blocks together the rate is asked, and of a whole
        # round ROUND_RATE, since each word that is another in one of two rounds costs up to a block.
        sums = np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1, dtype=np.uint32)
        wide = sums[:, SMOOTHED:] - sums[:, :-SMOOTHED] >= rate * BLOCK * SMOOTHED
        good[:, SMOOTHED // 2 : SMOOTHED // 2 + wide.shape[1]] |= wide
        # The last window stands for its last blocks too: a word that is another there does not end the loop.
        good[:, -(SMOOTHED // 2) :] |= wide[:, -1:]
        for lag in range(len(counts)):
            span = -(-(lag + 1) // BLOCK)
            if span > SMOOTHED and counts.shape[1] >= span:
                round_ = sums[lag, span:] - sums[lag, :-span] >= ROUND_RATE * BLOCK * span
                good[lag, span // 2 : span // 2 + len(round_)] |= round_
                good[lag, span // 2 + len(round_) :] |= round_[-1]
    found = []
    for lag in np.flatnonzero((good[:, 1:] & good[:, :-1]).any(1)).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate([[0], good[lag].view(np.int8), [0]])))
        for first, stop in edges.reshape(-1, 2).tolist():
            if stop - first >= 2:
                found.append((lag + 1, first, stop - 1))
    return found


def _tail(period: int) -> int:
    """Tokens that may follow a loop that is cut off by the end of the text."""
    return min(period, BLOCK)


def _extend_back(codes: NDArray[np.int32], low: int, period: int) -> int:
    while low > period and codes[low - 1] == codes[low - 1 - period]:
        low -= 1
    return max(low, period)


def _extend(codes: NDArray[np.int32], high: int, period: int) -> int:
    while high < len(codes) and codes[high] == codes[high - period]:
        high += 1
    return high


def _counts_as_loop(loop: Loop, text: TokenText) -> bool:
    tokens = loop.end - loop.start
    lasting = loop.kind == "exact" and tokens >= LASTING_TOKENS and loop.repeats >= LASTING_REPEATS
    if not lasting and not (
        loop.to_end and tokens >= LEAST_TOKENS[loop.kind] and loop.repeats >= LEAST_REPEATS[loop.kind]
    ):
        return False
    once = slice(loop.start, loop.start + loop.period)
    if loop.kind == "exact":
        return _worded(text, once) or (loop.end == len(text) and loop.repeats >= WORDLESS_REPEATS)
    return text.strings is not None and _prose(text, loop)


def _worded(text: TokenText, once: slice) -> bool:
    """Whether a round holds a word; a single Latin letter between marks, as in 0x00, is none."""
    if text.strings is None:
        return True
    inside = zip(text.strings[once], text.is_word[once].tolist(), strict=True)
    return any(word and (len(string.strip()) > 1 or not string.strip().isascii()) for string, word in inside)


def _prose(text: TokenText, loop: Loop) -> bool:
    """Whether a round has PROSE_WORDS words in a row with nothing but blanks between them, and is PROSE_SHARE words."""
    once = slice(loop.start, loop.start + 2 * loop.period)  # a run may cross the end of the round
    if _tight(text, once) or (loop.repeats < LEAST_REPEATS["template"] and _stanza(text, once)):
        return False
    written = sum(not string.isspace() for string in (text.strings or ())[once])
    if text.is_word[once].sum() < PROSE_SHARE * max(written, 1):
        return False
    words = 0
    for word, blank in zip(text.is_word[once].tolist(), text.is_blank[once].tolist(), strict=True):
        if word:
            words += 1
        elif not blank:
            words = 0
        if words >= PROSE_WORDS:
            return True
    return False


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
