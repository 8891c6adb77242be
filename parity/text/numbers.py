"""Which numbers does a stretch of text hold, in digits or English words, and does each count things or label them?"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUE = {word: at for at, word in enumerate(_ONES.split())} | {
    word: 10 * at for at, word in enumerate(_TENS.split(), 2)
}
_SCALE = {"hundred": 100, "thousand": 1_000, "million": 1_000_000}

_WORD = "(?:" + "|".join(sorted((*_VALUE, *_SCALE), key=len, reverse=True)) + ")"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<digits>-?\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|-?\d+(?:\.\d+)?)(?:st|nd|rd|th)?(?!\w)"
    rf"|(?<![\w-])(?P<words>{_WORD}(?:(?:-|[ ](?:and[ ])?){_WORD})*)(?![\w-])",
    re.IGNORECASE,
)

_LABELLED = (
    "act answer appendix article attempt bullet case chapter clause day episode equation example exercise figure hour "
    "id index item iteration lemma lesson level line method month no note number option page paragraph part phase "
    "point problem question reason remark round row rule scene section sentence stage step table task test theorem tip "
    "trial try version volume week year"
)
LABEL_NOUNS = frozenset(_LABELLED.split())
"""Nouns that a number stands behind to tell which one is meant."""

_CLOSED_CLASS = (
    "a about after all am an and are as at be been before but by could did do does for from get gets got had has "
    "have he her here him his i if in into is it its just left like made make makes may more must no not now of "
    "off on only or our out over she should so some still take takes than that the their them then there these "
    "they this those to up us was we went were what when which who will with would yet you your"
)
_CLOSED = frozenset(_CLOSED_CLASS.split())
"""Words that no noun is: what stands behind a number that counts is a noun, or an adjective before one."""

_DATED = frozenset(("by", "during", "in", "of", "on", "since", "until"))
_YEARS = range(1000, 2200)
_BEFORE, _AFTER = re.compile(r"([^\W\d_]+)[^\S\n]+$"), re.compile(r"[^\S\n]+([^\W\d_]+)")


@dataclass(frozen=True)
class Number:
    """value: what it says. counts: it stands before what it counts. label: it tells which one is meant, as in `Step 3`
    or `3.`. at: its first character."""

    value: float
    counts: bool
    label: bool
    at: int


def read_numbers(text: str) -> list[Number]:
    """All numbers of a text in order; digits that belong to a name (`x1`) or a version (the 3 of `1.2.3`) are none, nor
    is `one` by itself, which is a pronoun as often (`the next one`)."""
    return [_number(text, match) for match in _NUMBER.finditer(text) if match.group().lower() != "one"]


def read_value(text: str) -> float | None:
    """The value of a text that is one number and nothing else, in digits or English words; None for any other."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    return float(match["digits"].replace(",", "")) if match["digits"] else float(_in_words(match["words"]))


def _number(text: str, match: re.Match[str]) -> Number:
    digits = match["digits"]
    value = float(digits.replace(",", "")) if digits else float(_in_words(match["words"]))
    before, after = text[max(match.start() - 40, 0) : match.start()], text[match.end() : match.end() + 40]
    line = before.rsplit("\n", 1)[-1]
    behind, ahead = _BEFORE.search(line), _AFTER.match(after)
    noun = behind[1].lower() if behind else ""
    opens = not line.strip(" \t([*#-")  # only marks of a list stand before it in its line
    starts = bool(behind) and not re.sub(r"^.*[.!?:;]\s", "", line)[: -len(behind[0])].strip(" \t([*#-\"'")
    label = (
        noun in LABEL_NOUNS
        or (opens and bool(re.match(r"\s?[.):\]]", after)))
        or (starts and noun not in _CLOSED)
        or (noun in _DATED and value in _YEARS)
    )
    counts = not label and ahead is not None and ahead[1].lower() not in _CLOSED
    return Number(value, counts, label, match.start())


def _in_words(words: str) -> int:
    """The value of a number in words; of a list of digits (`four two`) their sum, which is as good for comparing."""
    total = part = 0
    for word in re.split(r"[ -]+", words.lower()):
        if word in _SCALE:
            part = max(part, 1) * _SCALE[word]
            if word != "hundred":
                total, part = total + part, 0
        else:
            part += _VALUE.get(word, 0)  # `and`
    return total + part
