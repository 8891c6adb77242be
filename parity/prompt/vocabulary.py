"""Which ids is a text, and which text are ids? The folder's tokenizer.json, with every byte and special token shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from parity.errors import CheckpointError, RunnerError, UsageError

FILE = "tokenizer.json"

LONG = 4000
"""Characters at the start of a longer text that are encoded to see whether the rest is worth it."""

KEPT = 64
"""Parts of texts whose ids are remembered: many renderings of one conversation share its messages."""

NEAR_THE_CUT = 64
"""Ids at the end of such a start that the rest of the text may change."""


class Vocabulary:
    """A tokenizer: ids of a text, and pieces of text of ids."""

    def __init__(self, inner: Any, document: Mapping[str, Any]) -> None:
        """inner: a `tokenizers.Tokenizer`; document: what its file holds."""
        self.inner = inner
        self.document = document

    @classmethod
    def read(cls, folder: Path, special: Mapping[str, str] | None = None) -> Vocabulary:
        """The tokenizer of a model folder; special tokens that it lacks are added, as transformers does.

        Raises RunnerError where the `tokenizers` library is missing, CheckpointError for a folder without
        tokenizer.json and for a file that is no tokenizer.
        """
        path = folder / FILE
        if not path.is_file():
            raise _wrong(path, "a tokenizer", "no such file")
        try:
            return cls.from_text(path.read_text(encoding="utf-8"), special or {})
        except (OSError, ValueError) as error:
            raise _wrong(path, "a tokenizer that the `tokenizers` library reads", str(error)[:200]) from error

    @classmethod
    def from_text(cls, text: str, special: Mapping[str, str]) -> Vocabulary:
        """The same from the file's text; ValueError for one that is no tokenizer."""
        inner = _library().Tokenizer.from_str
        try:
            made = inner(text)
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            raise ValueError(str(error)) from error
        made.no_truncation()
        made.no_padding()
        added = {token.content for token in made.get_added_tokens_decoder().values()}
        lacking = [token for token in dict.fromkeys(special.values()) if token and token not in added]
        made.add_special_tokens([_library().AddedToken(token, special=True, normalized=False) for token in lacking])
        return cls(made, json.loads(text))

    @cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self.inner.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def control(self) -> dict[int, str]:
        """Added tokens by id: what is recognized in a text before it is split."""
        return {number: token.content for number, token in self.inner.get_added_tokens_decoder().items()}

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of `text`: special tokens recognized where they stand, none added."""
        if self._control_pattern is None or self.inner.encode_special_tokens:
            return self.encode_whole(text)
        parts = self._control_pattern.split(text)
        found: list[int] = []
        for number, part in enumerate(parts):
            if not part:
                continue
            if number % 2:
                found.append(self.inner.token_to_id(part))
                continue
            if part not in self._encoded:
                if len(self._encoded) >= KEPT:
                    self._encoded.clear()
                self._encoded[part] = self.encode_whole(part)
            found += self._encoded[part]
        return tuple(found)

    def encode_whole(self, text: str) -> tuple[int, ...]:
        """The same by the library as it is set now, of the text at once."""
        return tuple(self.inner.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _encoded(self) -> dict[str, tuple[int, ...]]:
        return {}

    @cached_property
    def _control_pattern(self) -> re.Pattern[str] | None:
        """Control tokens at which a text may be cut before it is encoded, since the library cuts there itself; None for
        a tokenizer whose parts see what stands before them."""
        tokens = self.inner.get_added_tokens_decoder().values()
        if "ByteLevel" not in self._kinds or "Metaspace" in self._kinds or self.document.get("normalizer"):
            return None
        if any(one.lstrip or one.rstrip or one.single_word or one.normalized for one in tokens):
            return None
        # The longest of those that begin at a place, as the library takes it.
        names = sorted((re.escape(one.content) for one in tokens if one.content), key=len, reverse=True)
        return re.compile(f"({'|'.join(names)})") if names else None

    def may_begin(self, text: str, ids: Sequence[int], *, but_for: int | None = None) -> bool:
        """False when `ids` begin otherwise than those of a long `text`, ids `but_for` left out; else True."""
        if len(text) <= LONG:
            return True
        start = self.encode_whole(text[:LONG])[:-NEAR_THE_CUT]
        ours, theirs = ([one for one in part if one != but_for] for part in (start, ids[: len(start) + NEAR_THE_CUT]))
        return theirs[: len(ours)] == ours

    def number(self, token: str | None) -> int | None:
        """The id of one token's text."""
        return None if token is None else self.inner.token_to_id(token)

    def require_known(self, ids: Sequence[int]) -> None:
        """Raise UsageError naming the first of `ids` that this tokenizer has no token for."""
        unknown = {number for number in set(ids) if self.inner.id_to_token(number) is None}
        for at, number in enumerate(ids if unknown else ()):
            if number in unknown:
                raise UsageError(
                    place=f"id {number} at position {at}",
                    expected=f"ids of the {self.size} tokens in {FILE}",
                    found=f"{number}, which is none",
                    next_step="Give ids of this model: another model's tokenizer made these, or the file is cut short.",
                )

    def pieces(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """The bytes that each id stands for; joined they are the text, spaces at the start included."""
        known = self._pieces
        for number in set(ids) - known.keys():
            known[number] = self._piece(number)
        return tuple(map(known.__getitem__, ids))

    def shown(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text that each id stands for, on one line, with blanks to be seen."""
        known = list(set(ids))
        pieces = (visible(piece.decode("utf-8", errors="backslashreplace")) for piece in self.pieces(known))
        seen = dict(zip(known, pieces, strict=True))
        return tuple(map(seen.__getitem__, ids))

    @cached_property
    def _pieces(self) -> dict[int, bytes]:
        return {}

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included; bytes that are no UTF-8 show as U+FFFD."""
        return b"".join(self.pieces(ids)).decode("utf-8", errors="replace")

    @cached_property
    def _kinds(self) -> set[str]:
        return set(re.findall(r'"type": ?"(\w+)"', json.dumps([self.document.get("decoder"),
                                                               self.document.get("pre_tokenizer")])))  # fmt: skip

    def _piece(self, number: int) -> bytes:
        if number in self.control:
            return self.control[number].encode()
        token = self.inner.id_to_token(number)
        if "ByteLevel" in self._kinds:
            table = byte_letters()
            if all(letter in table for letter in token):
                return bytes(table[letter] for letter in token)
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()


def visible(text: str) -> str:
    """`text` on one line, each newline, tab and space to be seen."""
    shown = "".join({"\n": "⏎", "\t": "⇥", "\r": "␍"}.get(letter, letter) for letter in text)
    shown = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in shown)
    return shown.replace(" ", "·")


@lru_cache(maxsize=1)
def byte_letters() -> dict[str, int]:
    """Letter to byte of byte-level vocabularies: printable Latin-1 stands for itself, the rest from U+0100 on.

    Source: the GPT-2 byte-pair encoder's table, which `tokenizers` calls ByteLevel.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    for byte in range(256):
        if byte not in plain:
            table[chr(256 + len(table) - len(plain))] = byte
    return table


def _library() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise RunnerError(
            place="tokenizers library",
            expected="it to be installed: ids are compared with those that tokenizer.json gives",
            found="no such module",
            next_step="Install the extra `hf`: pip install 'parity-lab[hf]'.",
        ) from error
    return tokenizers


def _wrong(path: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        place=str(path),
        expected=expected,
        found=found,
        next_step=f"Put the model's own {FILE} into the folder; other formats (tokenizer.model) have to be converted.",
    )
