"""What text are these ids? The tokenizer beside the weights, read by the `tokenizers` library where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.errors import CheckpointError


class Tokenizer:
    """Ids to text and back, through a `tokenizer.json`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def beside(cls, folder: Path, *, vocab: int) -> Tokenizer | None:
        """The tokenizer of a model folder; None when it has none or the library is not installed.

        Raises CheckpointError for a file that is no tokenizer, and for ids that an embedding of `vocab` rows lacks.
        """
        try:
            from tokenizers import Tokenizer as Inner
        except ModuleNotFoundError:
            return None
        path = folder / "tokenizer.json"
        if not path.is_file():
            return None
        try:
            inner = Inner.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            raise _wrong(path, "a tokenizer that the `tokenizers` library reads", str(error)[:200]) from error
        token, largest = max(
            inner.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1], default=("", -1)
        )
        if largest >= vocab:
            raise _wrong(path, f"ids below {vocab}, the rows of the embedding", f"id {largest} for token {token!r}")
        return cls(inner)

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of `text`; special tokens are recognized where they stand and none is added."""
        return tuple(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return self._inner.decode(list(ids), skip_special_tokens=False)


def _wrong(path: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        place=str(path),
        expected=expected,
        found=found,
        next_step="Take tokenizer.json from the model's own source, or remove it: ids run without it.",
    )
