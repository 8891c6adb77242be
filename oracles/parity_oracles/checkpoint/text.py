"""What text are these ids? The tokenizer beside the weights, through the `tokenizers` library where installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class TextDecoder:
    """Ids to text through a model folder's `tokenizer.json`; special tokens stay visible."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def beside(cls, folder: Path) -> TextDecoder | None:
        """The decoder of a model folder; None when the folder has no tokenizer or the library is not installed."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            return None
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError:
            return None
        return cls(Tokenizer.from_file(str(path)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return self._inner.decode(list(ids), skip_special_tokens=False)
