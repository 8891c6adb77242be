"""What text are these ids? The tokenizer beside the weights, through the `tokenizers` library where installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.errors import CheckpointError


class TextDecoder:
    """Ids to text through a model folder's `tokenizer.json`; special tokens stay visible."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def beside(cls, folder: Path, *, vocab: int) -> TextDecoder | None:
        """The decoder of a model folder; None when the folder has no tokenizer or the library is not installed.

        Raises CheckpointError for a tokenizer.json that cannot be read, and for one with ids of `vocab` and above: it
        is of another model.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            return None
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError:
            return None
        try:
            inner = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            raise _not_ours(path, "a readable tokenizer", str(error)[:200]) from error
        beyond = {token: number for token, number in inner.get_vocab(with_added_tokens=True).items() if number >= vocab}
        if beyond:
            token = max(beyond, key=lambda name: beyond[name])
            found = f"{len(beyond)} beyond, up to id {beyond[token]} for {token!r}"
            raise _not_ours(path, f"ids 0..{vocab - 1}, as the embedding has rows", found)
        return cls(inner)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return self._inner.decode(list(ids), skip_special_tokens=False)


def _not_ours(path: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        place=str(path),
        expected=expected,
        found=found,
        next_step="Fetch the tokenizer of this very model, or remove the file: ids run without it.",
    )
