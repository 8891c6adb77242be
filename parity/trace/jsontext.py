"""Is this text JSON, and only JSON? The one strict parser behind manifests, shard headers and statistics.

Python's parser takes more than JSON: NaN, numbers beyond a double's range, keys said twice (the last one wins), halves
of surrogate pairs. Each of them would let two readers see two different traces in the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn, TypeGuard


def parse_json(raw: bytes) -> Any:
    """The value that `raw` holds, UTF-8.

    Raises ValueError for anything else than one JSON value: bytes that are no UTF-8, a key twice in one object, NaN or
    an infinity, a number beyond float64, half of a surrogate pair, or nesting deeper than the interpreter follows.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_distinct,
        )
        if b"\\u" in raw:
            # A lone surrogate cannot be encoded: it would fail where it is printed, far from here.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond float64")
    return number


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key twice in one object")
    return value


def is_count(value: Any) -> TypeGuard[int]:
    """True for a whole number >= 0 below 2**63; JSON's true and false are not numbers here."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def are_counts(value: Any) -> TypeGuard[list[int]]:
    """True for a list of such numbers, empty or not."""
    return isinstance(value, list) and all(is_count(item) for item in value)
