"""Which engine is this, exactly? What decides every number that it puts out, and the name of that in a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any
from uuid import uuid4

import numpy as np
import torch

from parity.errors import UsageError
from parity.metrics.bits import as_bits
from parity.registry import registered
from parity.zoo.version import code_version

_SESSION = uuid4().hex
_LENGTH = 32
"""Hexadecimal digits of a digest, 128 bits: two contents that meet by chance are not to be expected."""


def digest(content: Any) -> str:
    """The same text for the same content, in every process: SHA-256, cut to 32 digits.

    content: records, mappings, sequences, sets, arrays, tensors (bits, dtype, shape), paths, plain values. Raises
    UsageError for anything else: what it is made of is not known.
    """
    text = json.dumps(_plain(content), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


def engine_identity(
    runner: Any, *, spec: str | None = None, options: Mapping[str, Any] | None = None, version: str | None = None
) -> dict[str, Any]:
    """What a runner's numbers follow from, besides what it is asked.

    Its own description (weights, recipe, hyper-parameters, environment), how it was opened, the code of the package
    that opens it, of the lab and of all registered faults, and the files that options name. version: what its user
    adds, for kernels that lie elsewhere. An open runner without a `version` is known to this process alone: nothing
    says whether the next session's is the same.
    """
    known: dict[str, Any] = {"describes": runner.describe(), "version": version}
    if spec is None:
        return known if version is not None else {**known, "session": _SESSION}
    # By name: importing an engine here could decide for the whole process how its kernels run.
    package = registered("parity.runners").get(spec.partition(":")[0], spec).partition(":")[0].partition(".")[0]
    files = {name: _content(value) for name, value in (options or {}).items()}
    return {
        **known,
        "spec": spec,
        "options": dict(options or {}),
        "files": files,
        "code": code_version(package),
    }


def _content(value: Any) -> str | None:
    """Hash of the file that an option names, as `path` or `path:NAME`; None where it names none."""
    if not isinstance(value, str):
        return None
    for text in (value, value.rpartition(":")[0]):
        if text and Path(text).is_file():
            return hashlib.sha256(Path(text).read_bytes()).hexdigest()
    return None


def _plain(value: Any) -> Any:
    """The value as JSON that does not depend on the process: sets sorted, payloads by their hash."""
    if isinstance(value, Enum):
        return [type(value).__name__, value.value]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {field.name: _plain(getattr(value, field.name)) for field in fields(value)}]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(one) for one in value), key=str)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, torch.Tensor):
        bits = as_bits(value.detach().cpu().contiguous()).numpy()
        return ["tensor", str(value.dtype), list(value.shape), hashlib.sha256(bits.tobytes()).hexdigest()]
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return ["array", str(value.dtype), list(value.shape), content]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return repr(value) if isinstance(value, float) else value
    raise UsageError(
        place=f"a value of type {type(value).__name__}",
        expected="records, numbers, texts, tensors and collections of them",
        found=repr(value)[:120],
        next_step="Open the runner yourself and give it as an object, with a `version` that tells it from others.",
    )
