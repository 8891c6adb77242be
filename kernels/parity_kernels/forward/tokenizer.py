"""What text are these ids? The tokenizer beside the weights, read by the `tokenizers` library where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Tokenizer:
    """Ids to text and back, through a `tokenizer.json`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def beside(cls, folder: Path) -> Tokenizer | None:
        """The tokenizer of a model folder; None when it has none or the library is not installed."""
        try:
            from tokenizers import Tokenizer as Inner
        except ModuleNotFoundError:
            return None
        path = folder / "tokenizer.json"
        return cls(Inner.from_file(str(path))) if path.is_file() else None

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of `text`; special tokens are recognized where they stand and none is added."""
        return tuple(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return self._inner.decode(list(ids), skip_special_tokens=False)
