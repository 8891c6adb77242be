"""Where does a continuation degenerate, and by which sign? All measures of one text in one record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.errors import UsageError
from parity.text.loops import Loop, find_repetition
from parity.text.nonsense import first_nonsense
from parity.text.statistics import compression_ratio, distinct
from parity.text.structure import ends_in_a_sentence, open_fence, open_thinking
from parity.text.tokens import TokenText, from_ids, from_strings, split_text


@dataclass(frozen=True)
class TextScore:
    """Measures of one continuation.

    tokens: how many. first_degeneration: the token at which the first loop or nonsense starts, None for neither.
    loop: kind, period, start. counting: the same of a template whose numbers go on by a rule, which is no degeneration:
    a text that counts or calculates. first_nonsense: None also where the oracle's log-probabilities are not known.
    distinct: distinct-n by n. seq_rep_4: 1 - distinct-4, the
    seq-rep-n of Welleck et al. 2019, arXiv 1908.04319. compression_ratio: None for bare ids.
    open_fence, open_thinking: None for bare ids. premature_end: the model stopped by itself with a fence or a thinking
    section open or in the middle of a sentence; None where it is not known who ended the text.
    """

    tokens: int
    first_degeneration: int | None
    loop: Loop | None
    counting: Loop | None
    first_nonsense: int | None
    distinct: Mapping[str, float]
    seq_rep_4: float
    compression_ratio: float | None
    open_fence: bool | None
    open_thinking: bool | None
    premature_end: bool | None

    @property
    def healthy(self) -> bool:
        """No loop, no nonsense, no premature end."""
        return self.first_degeneration is None and not self.premature_end


@dataclass(frozen=True)
class Completion:
    """A text to score. logprobs: of its tokens under the oracle. stopped: True when the model ended it, False when a
    limit did, None when that is not known. vocabulary: size, for the log-probabilities."""

    text: TokenText
    logprobs: tuple[float, ...] | None = None
    stopped: bool | None = None
    vocabulary: int | None = None


def score_text(completion: Completion) -> TextScore:
    """Measure one continuation, in time linear in its length. Raises UsageError for an empty one."""
    text = completion.text
    if not len(text):
        raise UsageError(
            place="completion",
            expected="at least one token",
            found="an empty completion",
            next_step="An engine that stops at once is a finding of its own: look at its first token's logits.",
        )
    loop, counting = find_repetition(text)
    nonsense = None
    if completion.logprobs is not None:
        nonsense = first_nonsense(completion.logprobs, vocabulary=completion.vocabulary or 2**16)
    whole = text.text
    fence, thinking = (None, None) if whole is None else (open_fence(whole), open_thinking(whole))
    premature = None
    if completion.stopped is not None and whole is not None:
        premature = completion.stopped and bool(fence or thinking or not ends_in_a_sentence(whole))
    shares = {str(n): distinct(text.codes, n) for n in (1, 2, 3, 4)}
    starts = [start for start in (loop.start if loop else None, nonsense) if start is not None]
    return TextScore(
        tokens=len(text),
        first_degeneration=min(starts, default=None),
        loop=loop,
        counting=counting,
        first_nonsense=nonsense,
        distinct=shares,
        seq_rep_4=1.0 - shares["4"],
        compression_ratio=None if whole is None else compression_ratio(whole),
        open_fence=fence,
        open_thinking=thinking,
        premature_end=premature,
    )


def read_completion(path: Path) -> Completion:
    """A completion from a file: plain text, or JSON with `text`, `tokens` (strings) or `ids`, and where known
    `logprobs`, `finish_reason` (`stop` or `length`) and `vocabulary`.

    Bytes that are no text are kept: an engine may have written them. Raises UsageError for a file that is neither, and
    for ids below 0.
    """
    try:
        raw = path.read_bytes().decode("utf-8", errors="surrogateescape")
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if path.suffix != ".json":
        return Completion(split_text(raw))
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise _unreadable(path, f"no JSON: {error}") from error
    return completion_from(content, place=path)


def completion_from(content: Any, *, place: Path) -> Completion:
    """A completion from parsed JSON, as `read_completion` describes it."""
    if not isinstance(content, dict):
        raise _unreadable(place, type(content).__name__)
    if _all(content.get("tokens"), str):
        text = from_strings(content["tokens"])
    elif isinstance(content.get("text"), str):
        text = split_text(content["text"])
    elif _all(content.get("ids"), int):
        if any(number < 0 for number in content["ids"]):
            raise _unreadable(place, "ids below 0")
        text = from_ids(content["ids"])
    else:
        raise _unreadable(place, f"keys {sorted(content)}")
    logprobs, reason, vocabulary = (content.get(name) for name in ("logprobs", "finish_reason", "vocabulary"))
    if logprobs is not None and (not _all(logprobs, (int, float)) or len(logprobs) != len(text)):
        raise _unreadable(place, f"logprobs that are not {len(text)} numbers, one a token")
    return Completion(
        text,
        None if logprobs is None else tuple(map(float, logprobs)),
        {"stop": True, "length": False}.get(reason) if isinstance(reason, str) else None,
        vocabulary if isinstance(vocabulary, int) and vocabulary > 1 else None,
    )


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(isinstance(v, kind) for v in values)


def _unreadable(path: Path, found: str) -> UsageError:
    return UsageError(
        place=f"completion {path}",
        expected="plain text, or JSON with `text`, `tokens` or `ids`",
        found=found,
        next_step='Save the continuation as a text file, or as {"text": "...", "finish_reason": "length"}.',
    )
