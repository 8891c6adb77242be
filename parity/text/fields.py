"""Do the rounds of a repeating stretch vary in fields, as a form that is filled in, or anywhere, as a loop with noise?

A text is a form when what varies stands in the same places in every round. Two descriptions of where a round differs
from the one before are held against each other by their length in bits, each by the sequential code of Krichevsky and
Trofimov (1981, doi 10.1109/TIT.1981.1056331), which pays for what it has to learn:

anywhere  every word and number differs with one and the same chance;
columns   each place of the frame has a chance of its own.

A place is named by the two words of the frame before it, not by its distance from the start of the round, so that a
field of three words does not move the places behind it. A form says something when

- what varies is a good part of it (LEAST_BITS, SHARE), and is new, or no two rounds say the same, or two fields hold
  the same things in turn and never the same one (`from the left peg to the right`); or
- what one field holds, another one holds in the round before (`Seth was the father of Enos. Enos was the father of`).

What a loop draws at random for a place, or goes through in turn, does neither. Numbers that go up by one from round to
round number the rounds, and are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from math import lgamma, log, pi

import numpy as np
from numpy.typing import NDArray

from parity.text.matches import reach, same_before
from parity.text.tokens import TokenText

FRAME = 0.75
"""Share of a word's occurrences that equal what stands there a round before, from which it belongs to the frame: of a
loop in which one word in eight is another each time it has (7/8)^2 = 0.77."""

WORD_BITS, DIGIT_BITS = 11.8, log(10) / log(2)
"""Of a word out of nothing (Shannon 1951, Prediction and entropy of printed English), and of a digit."""

LEAST_BITS = 0.6 * 5.5 / 2
"""What varies has to say, for each word and number of a form: half of what the tersest prose says (Shannon 1951: 0.6
bits a letter at least, 5.5 of them in a word with its blank). One free word in seven is as much."""

SHARE = 1 / 6
"""Words and numbers that vary, of all, from which that is enough whatever they say: a table of small numbers."""

NEW, NOVEL, CARRIED = 0.4, 0.9, 0.9
"""Values that are different ones; rounds that are; rounds that go on with what the one before held. The second and the
third leave one round in ten for a frame that is misread at a break of the lines."""

CHANCE = 1e-3
"""That two fields which are drawn each for itself never hold the same."""

OFTEN = 1 / 3
"""Share of its rounds in which a field changes, at least: one of three values, drawn at random, does in two thirds."""

LEAST_ROUNDS = 4

_ENDS = frozenset((".", "!", "?", "。"))


@dataclass(frozen=True)
class Fields:
    """How the rounds of a stretch vary.

    gain: bits by which the description by columns is shorter; above 0 the rounds are a form. share: words and numbers
    that differ from those a round before, of all; each: how many of them a round has; bits: what they would say out of
    nothing, for each word and number of the form; worded: whether words are among
    them. new: different values of the fields, of all that they hold. novel: rounds that are different ones by what
    their fields hold. exclusive: two fields hold the same things, and never the same one. carried: share of the rounds
    that go on with what another field held in the round before.
    """

    gain: float
    share: float
    each: float
    bits: float
    worded: bool
    new: float
    novel: float
    exclusive: bool
    carried: float

    @property
    def say_something(self) -> bool:
        """Whether the rounds are a form that is filled in with something."""
        if self.gain <= 0:
            return False
        if self.carried >= CARRIED:
            return True
        if (self.bits < LEAST_BITS and self.share < SHARE) or (not self.worded and self.each < 2):
            return False
        return self.new >= NEW or self.novel >= NOVEL or self.exclusive


def read_fields(
    text: TokenText, part: slice, period: int, followed: tuple[NDArray[np.bool_], NDArray[np.int64]] | None = None
) -> Fields | None:
    """How the rounds of a part of a text vary, of about `period` tokens each. None of bare ids, of fewer than
    LEAST_ROUNDS, and where no word or number differs from the one a round before.

    followed: of all tokens of the text, whether each is the one of the round before, and how far back that stands;
    found at a fixed lag where it is not given.
    """
    codes, strings = text.codes[part], (text.strings or ())[part]
    if not strings or len(codes) < LEAST_ROUNDS * period:
        return None
    if followed is None:
        same, lags = same_before(codes, period, reach(period))
    else:
        same, lags = followed[0][part], followed[1][part]
    differs = ~same
    held = np.array([any(map(str.isalnum, string)) for string in strings])
    held[:period] = False
    before = np.arange(len(codes)) - lags
    changed = np.flatnonzero(differs & held).tolist()
    held[[at for at in changed if _numbers_the_rounds(strings[at], strings[before[at]])]] = False
    at = np.flatnonzero(held)
    if not differs[at].any():
        return None
    places = _places(codes[at], _frame(codes[at], differs[at]))
    # A word that is another one for a round is one event, though two rounds differ from the one before.
    back = differs[at] & (codes[at] == codes[np.maximum(before[np.maximum(before[at], 0)], 0)]) & (before[at] >= period)
    seen: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for place, one, other in zip(places, differs[at].tolist(), (differs[at] & ~back).tolist(), strict=True):
        seen[place] = [a + b for a, b in zip(seen[place], (1, one, other), strict=True)]
    total, events = int(differs[at].sum()), int((differs[at] & ~back).sum())
    gain = _code_length(events, len(at)) - sum(_code_length(other, count) for count, _, other in seen.values())
    fields = {place for place, (count, one, _) in seen.items() if count > 1 and one > OFTEN * count}
    # A round is cut where a sentence or a line ends: what it carries from the one before is known by that.
    ends = (k for k in range(period, len(strings)) if "\n" in strings[k] or strings[k].strip() in _ENDS)
    first = int(np.searchsorted(at, next(ends, period)))
    rounds = _rounds(places[first:], codes[at[first:]].tolist(), fields)
    values = [(place, value) for one in rounds for place, value in one.items()]
    return Fields(
        gain=gain,
        share=total / len(at),
        each=total * period / (len(codes) - period),
        bits=sum(_bits(strings[k]) for k in at[differs[at]].tolist()) / len(at),
        worded=bool(text.is_word[part][at][differs[at]].any()),
        new=len(set(values)) / max(len(values), 1),
        novel=len({tuple(sorted(one.items())) for one in rounds}) / max(len(rounds), 1),
        exclusive=any(_exclude(rounds, a, b) for a, b in permutations(fields, 2) if a < b),
        carried=max((_carried(rounds, a, b) for a, b in permutations(fields, 2)), default=0.0),
    )


def _numbers_the_rounds(now: str, before: str) -> bool:
    now, before = now.strip(), before.strip()
    # Python reads no integer of more than 4300 digits, and no round has a number as long.
    return now.isdecimal() and before.isdecimal() and len(now) + len(before) < 40 and int(now) == int(before) + 1


def _bits(string: str) -> float:
    plain = string.strip()
    return min(DIGIT_BITS * len(plain), WORD_BITS) if plain.isdecimal() else WORD_BITS


def _frame(codes: NDArray[np.int32], differs: NDArray[np.bool_]) -> set[int]:
    """Words that are mostly what stood there a round before."""
    kinds, which = np.unique(codes, return_inverse=True)
    same = np.bincount(which, ~differs) / np.bincount(which)
    return set(kinds[same >= FRAME].tolist())


def _places(codes: NDArray[np.int32], frame: set[int]) -> list[int]:
    """The place of each word: a number for the two words of the frame before it, and how far behind them it stands."""
    numbers: dict[tuple[int, int, int], int] = {}
    before, last, behind, places = -1, -1, 0, []
    for code in codes.tolist():
        places.append(numbers.setdefault((before, last, behind), len(numbers)))
        if code in frame:
            before, last, behind = last, code, 0
        else:
            behind += 1
    return places


def _rounds(places: Sequence[int], codes: Sequence[int], fields: set[int]) -> list[Mapping[int, int]]:
    """What the fields hold, round by round: one ends where a field comes again."""
    rounds: list[dict[int, int]] = [{}]
    for place, code in zip(places, codes, strict=True):
        if place in fields:
            if place in rounds[-1]:
                rounds.append({})
            rounds[-1][place] = code
    return list(rounds)


def _code_length(ones: int, total: int) -> float:
    """Bits of a sequence of so many ones by the estimator of Krichevsky and Trofimov."""
    zeros = total - ones
    return -(lgamma(ones + 0.5) + lgamma(zeros + 0.5) - log(pi) - lgamma(total + 1)) / log(2)


def _exclude(rounds: Sequence[Mapping[int, int]], a: int, b: int) -> bool:
    """Whether two fields hold the same things, and never the same one, which independent draws would by chance."""
    pairs = [(one[a], one[b]) for one in rounds if a in one and b in one]
    if len(pairs) < LEAST_ROUNDS or any(x == y for x, y in pairs):
        return False
    left, right = Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    together = sum(left[value] * right[value] for value in left) / len(pairs) ** 2
    return len(pairs) * np.log1p(-together) < log(CHANCE) if together < 1 else True


def _carried(rounds: Sequence[Mapping[int, int]], a: int, b: int) -> float:
    """Share of the rounds of which field a holds what b held in the round before, and a did not."""
    pairs = [(one[b], one[a], two[a]) for one, two in pairwise(rounds) if {a, b} <= one.keys() and a in two]
    if len(pairs) < LEAST_ROUNDS - 1:
        return 0.0
    return sum(there == now != before for there, before, now in pairs) / len(pairs)
