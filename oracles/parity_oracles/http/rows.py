"""What does one position's answer say of the log-probabilities? Ids with numbers, and what a collision hides.

A server that keys `top_logprobs` by text loses one of two ids that decode to the same text, and does not say which. The
lost one has at most the probability that all shown ones leave over, and where nothing is lost the ambiguous one has the
one shown. So what stands above both bounds is certain, and is kept; the rest of the position counts as not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from parity.errors import RunnerError
from parity_oracles.http.spelling import Spelling

LEAST = -9999.0
"""What vLLM writes for a probability of 0, since JSON has no infinity; here for all servers."""


@dataclass(frozen=True)
class Row:
    """Log-probabilities (nats) of one position by id: the largest ones, and perhaps that of the token that came.

    cut: texts that stand for several ids and for which the position had to be cut short.
    """

    shown: Mapping[int, float]
    cut: tuple[str, ...] = ()


def read_row(top: Any, spelling: Spelling, *, place: str, own: tuple[int, float] | None = None) -> Row:
    """A position from what servers call top log-probabilities: an object by id or text, or a list of objects.

    own: id and log-probability of the token that stands there, when the server gives them apart.
    Raises RunnerError for what is neither, for no number, and where a collision hides which token is the largest.
    """
    pairs, twice = _pairs(top, place)
    shown: dict[int, float] = {}
    vague: list[tuple[str, tuple[int, ...], float]] = []
    for text, number, value in pairs:
        ids = (number,) if number is not None else spelling.ids(text)
        if len(ids) == 1 and text not in twice:
            shown[ids[0]] = value
        else:
            vague.append((text, ids, value))
    if vague:
        shown = _certain(shown, vague, place)
    if own is not None and (not vague or own[0] in shown):
        shown.setdefault(*own)
    if not shown:
        raise _wrong(place, "log-probabilities", "none")
    return Row(shown, tuple(text for text, _, _ in vague))


def _certain(
    shown: Mapping[int, float], vague: list[tuple[str, tuple[int, ...], float]], place: str
) -> dict[int, float]:
    mass = sum(math.exp(value) for value in [*shown.values(), *(value for _, _, value in vague)] if value < 0)
    rest = math.log(max(1.0 - mass, 0.0)) if mass < 1 else -math.inf
    bound = max(rest, *(value for _, _, value in vague))
    certain = {number: value for number, value in shown.items() if value > bound}
    if not certain:
        text, ids, _ = max(vague, key=lambda one: one[2])
        which = "ids " + ", ".join(map(str, ids[:6])) if ids else "no id of the tokenizer"
        raise RunnerError(
            place=place,
            expected="a key of its own for each token of the top log-probabilities",
            found=f"the text {text[:40]!r}, which stands for {which}: the largest may be lost behind it",
            next_step="Use a server that honours `return_tokens_as_token_ids` or `prompt_logprobs`.",
        )
    return certain


def _pairs(top: Any, place: str) -> tuple[list[tuple[str, int | None, float]], frozenset[str]]:
    """(text, id where it is given, log-probability) of each entry, and the keys that stood there twice."""
    if isinstance(top, Mapping):
        entries: Iterable[tuple[Any, Any]] = top.items()
        twice = getattr(top, "twice", frozenset())
    elif isinstance(top, list) and all(isinstance(one, Mapping) for one in top):
        entries, twice = [(one.get("token"), one) for one in top], frozenset()
    else:
        raise _wrong(place, "an object or a list of top log-probabilities", repr(top)[:80])
    pairs = []
    for name, value in entries:
        number = int(name) if isinstance(name, str) and isinstance(top, Mapping) and _by_id(name, value) else None
        if isinstance(value, Mapping):
            given = value.get("id")
            number = given if isinstance(given, int) and not isinstance(given, bool) and given >= 0 else number
            value = value.get("logprob")
        pairs.append((str(name), number, read_number(value, place)))
    return pairs, twice


def _by_id(name: str, value: Any) -> bool:
    """Whether an entry is `prompt_logprobs`' own: keyed by the id, the number inside an object."""
    return isinstance(value, Mapping) and name.isascii() and name.isdigit() and len(name) <= 12


def read_number(value: Any, place: str) -> float:
    """A log-probability: minus infinity as LEAST; NaN stays, it is the engine's. RunnerError for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value > 1e-3:
        raise _wrong(place, "a log-probability, at most 0", repr(value)[:80])
    return max(float(value), LEAST) if value == value else math.nan


def _wrong(place: str, expected: str, found: str) -> RunnerError:
    return RunnerError(
        place=place,
        expected=expected,
        found=found,
        next_step="Compare the server's raw answer with its documentation of `logprobs`; it may ignore the parameter.",
    )
