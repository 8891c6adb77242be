"""How is a record written as JSON?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np


def as_json(record: Any) -> Any:
    """A record as plain JSON values: enums to their value, tuples and arrays to lists, paths, NaN and inf to text.

    Fields whose metadata say `json: False` are left out.
    """
    if is_dataclass(record) and not isinstance(record, type):
        shown = (item.name for item in fields(record) if item.metadata.get("json", True))
        return {key: as_json(getattr(record, key)) for key in shown}
    if isinstance(record, Enum):
        return record.value
    if isinstance(record, Mapping):
        return {str(key): as_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple, set, frozenset)):
        return [as_json(value) for value in record]
    if isinstance(record, PurePath):
        return str(record)
    if isinstance(record, np.ndarray):
        return as_json(record.tolist())
    if isinstance(record, np.generic):
        return as_json(record.item())
    if isinstance(record, float) and (record != record or record in (float("inf"), float("-inf"))):
        return repr(record)
    return record
