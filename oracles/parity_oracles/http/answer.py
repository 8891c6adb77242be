"""What does a completion's answer hold? Ids that came, rows of log-probabilities, and whether it was asked that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.errors import RunnerError
from parity_oracles.http.rows import Row, read_number, read_row
from parity_oracles.http.spelling import Spelling


@dataclass(frozen=True)
class Answer:
    """ids, text: what came. new: the row that each new id was chosen from, empty when none were asked for.
    prompt: row n is what the server expected in place of prompt id n; None for the first, and empty where not shown.
    """

    ids: tuple[int, ...]
    text: str | None
    new: tuple[Row, ...]
    prompt: tuple[Row | None, ...]


def read_answer(
    content: Any, *, sent: Sequence[int], asked: int, echoed: bool, rows: bool, spelling: Spelling, place: str
) -> Answer:
    """The answer to a prompt of ids `sent` with at most `asked` new ones.

    echoed: the prompt was to be repeated in front. rows: log-probabilities were asked for.
    Raises RunnerError for a missing field, and when the server fed other ids than it was sent, gave more than it was
    asked, or ignored a parameter.
    """
    choice = _choice(content, place)
    _check_fed(content, choice, sent, place)
    told = choice.get("logprobs")
    words, given = _legacy(told, place) if isinstance(told, Mapping) else ([], [])
    if rows and not given:
        raise _missing(place, "choices[0].logprobs, asked for with `logprobs`", told)
    front = len(sent) if echoed else 0
    # Nothing comes before the first token, so a prompt that is repeated begins without a log-probability.
    if echoed and (len(given) < front or (given and given[0][2] is not None)):
        raise RunnerError(
            place=place,
            expected=f"{front} prompt tokens in front of the new ones, asked for with `echo`",
            found=f"{len(given)} tokens in all, " + ("the first of them a new one" if given else "none of the prompt"),
            next_step="The server ignores `echo`: read the prompt position by position (option prompt=steps).",
        )
    if echoed:
        _check_echo(words[:front], sent, place)
    ids = _new_ids(choice, words[front:], spelling, place)
    if len(ids) > asked or any(number < 0 for number in ids):
        raise RunnerError(
            place=place,
            expected=f"at most {asked} new ids",
            found=f"{len(ids)}",
            next_step="The server ignores `max_tokens`, or repeats the prompt without being asked.",
        )
    if rows and len(given) != front + len(ids):
        raise RunnerError(
            place=place,
            expected=f"log-probabilities of {front + len(ids)} tokens",
            found=f"{len(given)}",
            next_step="Its `logprobs` and its tokens contradict each other: see the server's issues.",
        )
    new = tuple(_row(one, spelling, f"{place}, new token {at}") for at, one in enumerate(given[front:])) if rows else ()
    text = choice.get("text")
    return Answer(
        ids, text if isinstance(text, str) and not echoed else None, new,
        _prompt_rows(choice, given[:front], sent, echoed=echoed, spelling=spelling, place=place),
    )  # fmt: skip


def _choice(content: Any, place: str) -> Mapping[str, Any]:
    choices = content.get("choices") if isinstance(content, Mapping) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        said = content.get("error") or content.get("message") if isinstance(content, Mapping) else None
        raise _missing(place, "one completion under choices", said if said is not None else choices)
    return choices[0]


def _check_fed(content: Mapping[str, Any], choice: Mapping[str, Any], sent: Sequence[int], place: str) -> None:
    """The server's own word on what it fed, where it gives one."""
    usage = content.get("usage")
    counted = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    fed = choice.get("prompt_token_ids", content.get("prompt_token_ids"))
    wrong = ""
    if isinstance(fed, list) and fed != list(sent):
        at = next((n for n, (a, b) in enumerate(zip(fed, sent, strict=False)) if a != b), min(len(fed), len(sent)))
        wrong = f"{len(fed)} ids, the first other one at position {at}"
    elif isinstance(counted, int) and counted != len(sent):
        wrong = f"{counted} prompt tokens by its own count"
    if wrong:
        raise RunnerError(
            place=place,
            expected=f"the {len(sent)} ids that were sent to be fed",
            found=wrong,
            next_step="It adds a token (BOS) or cuts the prompt: switch that off, or send what it adds as well.",
        )


def _legacy(told: Mapping[str, Any], place: str) -> tuple[list[Any], list[tuple[Any, Any, Any]]]:
    """Tokens, and (top log-probabilities, token, its own log-probability) of each, from either form of `logprobs`."""
    entries = told.get("content")
    if isinstance(entries, list):
        if not all(isinstance(one, Mapping) for one in entries):
            raise _missing(place, "objects under logprobs.content", entries[:1])
        given = [(one.get("top_logprobs"), one, one.get("logprob")) for one in entries]
        return [one.get("token") for one in entries], given
    words, own, top = (told.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(words, list) or not isinstance(own, list) or len(own) != len(words):
        raise _missing(place, "logprobs.tokens and logprobs.token_logprobs of one length", told)
    if not isinstance(top, list) or len(top) != len(words):
        raise _missing(place, f"logprobs.top_logprobs of {len(words)} tokens", top)
    return words, list(zip(top, words, own, strict=True))


def _check_echo(words: Sequence[Any], sent: Sequence[int], place: str) -> None:
    for at, (word, number) in enumerate(zip(words, sent, strict=False)):
        if isinstance(word, str) and word.startswith("token_id:") and word != f"token_id:{number}":
            raise RunnerError(
                place=f"{place}, prompt position {at}",
                expected=f"id {number}, as it was sent",
                found=word[:40],
                next_step="The server feeds other ids than it is given: compare its tokenizer settings.",
            )


def _new_ids(choice: Mapping[str, Any], words: Sequence[Any], spelling: Spelling, place: str) -> tuple[int, ...]:
    given = choice.get("token_ids")
    if isinstance(given, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in given):
        return tuple(given)
    told = choice.get("logprobs")
    entries = told.get("content") if isinstance(told, Mapping) else None
    if isinstance(entries, list) and all(isinstance(one.get("id"), int) for one in entries):
        return tuple(one["id"] for one in entries)
    if not words and choice.get("text"):
        raise _missing(place, "token ids (`return_token_ids`), or tokens under logprobs", sorted(choice))
    ids = []
    for at, word in enumerate(words):
        found = spelling.ids(word) if isinstance(word, str) else ()
        if len(found) != 1:
            which = "no id" if not found else "ids " + ", ".join(map(str, found[:6]))
            raise RunnerError(
                place=f"{place}, new token {at}",
                expected="one id",
                found=f"the text {str(word)[:40]!r}, which stands for {which}",
                next_step="Use a server that honours `return_token_ids` or `return_tokens_as_token_ids`.",
            )
        ids.append(found[0])
    return tuple(ids)


def _row(given: tuple[Any, Any, Any], spelling: Spelling, place: str) -> Row:
    top, word, own = given
    number = word.get("id") if isinstance(word, Mapping) else None
    text = word.get("token") if isinstance(word, Mapping) else word
    ids = (number,) if isinstance(number, int) else spelling.ids(text) if isinstance(text, str) else ()
    alone = (ids[0], read_number(own, place)) if len(ids) == 1 and own is not None else None
    return read_row(top, spelling, place=place, own=alone)


def _prompt_rows(
    choice: Mapping[str, Any], echoed_rows: Sequence[tuple[Any, Any, Any]], sent: Sequence[int], *, echoed: bool,
    spelling: Spelling, place: str,
) -> tuple[Row | None, ...]:  # fmt: skip
    """Rows of the prompt from `prompt_logprobs`, else from the echo; none where the server shows neither."""
    told = choice.get("prompt_logprobs")
    if isinstance(told, list):
        if len(told) != len(sent):
            raise _missing(place, f"prompt_logprobs of {len(sent)} ids", f"{len(told)}")
        rows = [None if one is None else read_row(one, spelling, place=f"{place}, prompt position {at}")
                for at, one in enumerate(told)]  # fmt: skip
    elif echoed:
        rows = []
        for at, (top, _, own) in enumerate(echoed_rows):
            here = f"{place}, prompt position {at}"
            alone = None if own is None else (sent[at], read_number(own, here))
            rows.append(None if top is None else read_row(top, spelling, place=here, own=alone))
    else:
        return ()
    empty = next((at for at, row in enumerate(rows) if at and row is None), None)
    if empty is not None:
        raise _missing(f"{place}, prompt position {empty}", "log-probabilities", None)
    return (None, *rows[1:])


def _missing(place: str, expected: str, found: Any) -> RunnerError:
    return RunnerError(
        place=place,
        expected=expected,
        found="nothing" if found is None else repr(found)[:200],
        next_step="The server ignores a parameter or speaks another API: see what it answers to POST /v1/completions.",
    )
