"""What does every detector of error fields return?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.records import Slice


@dataclass(frozen=True)
class Fingerprint:
    """A cause class read from the shape of an error field.

    cause: the class. score: in (0, 1], how much of the field the cause explains. numbers: what it was read from, by
    name. sentence: the same for a person. slice: where.
    """

    cause: str
    score: float
    numbers: Mapping[str, Any]
    sentence: str
    slice: Slice = field(default_factory=Slice)
