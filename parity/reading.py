"""How does a record come back from the JSON that `as_json` made of it? By the types that its fields declare."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from parity.errors import UsageError

Record = TypeVar("Record")


def read_record(kind: type[Record], content: Any, *, place: str = "record") -> Record:
    """The record of dataclass `kind` whose JSON values are `content`; fields that are missing take their defaults.

    Lists become tuples where the field asks for one, texts become enums, `nan` and `inf` numbers. What a field leaves
    open (`Any`) stays as JSON has it: keys of mappings are texts. Raises UsageError for anything that does not fit.
    """
    try:
        return _read(kind, content)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(
            place=place,
            expected=f"the JSON of a {kind.__name__}",
            found=f"{type(error).__name__}: {error}"[:300],
            next_step="The file was altered, or written by another version of the lab.",
        ) from error


def _read(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if kind is Any or value is None:
        return value
    if origin in (Union, types.UnionType):
        return _read_union([one for one in get_args(kind) if one is not type(None)], value)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{f.name: _read(hints[f.name], value[f.name]) for f in fields(kind) if f.name in value})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if origin is tuple:
        return _read_tuple(get_args(kind), value)
    if origin is not None and issubclass(origin, Mapping):
        arguments = get_args(kind)
        return {_read(arguments[0], key): _read(arguments[1], one) for key, one in value.items()}
    if origin in (Sequence, list):
        return [_read(get_args(kind)[0], one) for one in value]
    if kind in (int, float) and isinstance(value, str):
        return kind(value)
    if kind is float and isinstance(value, int):
        return float(value)
    return value


def _read_union(kinds: list[Any], value: Any) -> Any:
    if len(kinds) == 1:
        return _read(kinds[0], value)
    plain = next((one for one in kinds if isinstance(one, type) and isinstance(value, one)), None)
    return value if plain is not None else _read(kinds[0], value)


def _read_tuple(arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not arguments:
        return tuple(value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_read(arguments[0], one) for one in value)
    return tuple(_read(kind, one) for kind, one in zip(arguments, value, strict=True))


@lru_cache(maxsize=256)
def _hints(kind: type) -> dict[str, Any]:
    # Of the fields that JSON holds: the type of a tensor beside them is known to type checkers alone.
    stored = {field.name: field.type for field in fields(kind) if field.metadata.get("json", True)}
    return get_type_hints(types.SimpleNamespace(__annotations__=stored), globalns=vars(sys.modules[kind.__module__]))
