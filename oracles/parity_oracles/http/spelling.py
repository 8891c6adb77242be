"""Which id does a server mean that writes tokens as text? `token_id:N` means N; a text may mean several ids."""

from __future__ import annotations

import re
from pathlib import Path

from parity.errors import RunnerError
from parity.prompt.vocabulary import Vocabulary

TOKEN_ID = re.compile(r"token_id:(\d{1,12})")
"""How servers write a token under `return_tokens_as_token_ids`."""


class Spelling:
    """Ids by the text that each decodes to, from the tokenizer of a model folder, read when it is first needed."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._ids: dict[str, tuple[int, ...]] | None = None
        self._unspelled: frozenset[int] = frozenset()

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids that `text` may stand for: one for `token_id:N`, none for a text that no id decodes to.

        Raises RunnerError for a text where there is no tokenizer to ask.
        """
        match = TOKEN_ID.fullmatch(text)
        if match:
            return (int(match[1]),)
        if self._ids is None:
            self._ids = self._read(text)
        return self._ids.get(text, ())

    def _read(self, text: str) -> dict[str, tuple[int, ...]]:
        if self._folder is None:
            raise RunnerError(
                place="tokens of the server's answer",
                expected="ids, as `return_tokens_as_token_ids` gives them",
                found=f"text, {text[:40]!r}: the server ignores that parameter",
                next_step="Give the model's folder (option folder=DIR): its tokenizer says which ids a text may be.",
            )
        inner = Vocabulary.read(self._folder).inner
        numbers = sorted(inner.get_vocab(with_added_tokens=True).values())
        texts = inner.decode_batch([[number] for number in numbers], skip_special_tokens=False)
        found: dict[str, tuple[int, ...]] = {}
        for number, one in zip(numbers, texts, strict=True):
            found[one] = (*found.get(one, ()), number)
        return found
