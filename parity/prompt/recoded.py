"""Is it the same text as other ids? Other tokenizer settings, parts tokenized apart, special tokens spelled out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from parity.prompt.evidence import Case, bare
from parity.prompt.record import Explanation
from parity.prompt.vocabulary import Vocabulary, visible


def recoded(case: Case) -> list[Explanation]:
    """Explanations of a prompt whose text is the template's, or nearly, and whose ids are others."""
    if bare(case.reference.text) != bare(case.sut.text):
        return _spelled(case)
    text = case.reference.text
    name = next(settings_giving(case.vocabulary, text, case.sut.ids), None)
    if name is not None:
        told = f"The template's text becomes the SUT's ids with {name}: the tokenizer class is not this folder's."
        return [Explanation("tokenizer_settings", told, True, {"setting": name})]
    if case.reference.text != case.sut.text:
        return _spelled(case)
    spelled = _spelled(case)
    if spelled:
        return spelled
    for name, parts in _partings(case, text):
        if tuple(number for part in parts if part for number in case.vocabulary.encode(part)) == case.sut.ids:
            told = f"The text is the template's; the SUT's ids are those of {name} tokenized apart and joined."
            return [Explanation("retokenized_across_boundary", told, True, {"parts": name})]
    joined = _cut_and_joined(case)
    if joined is not None:
        return [joined]
    first = case.hunks[0]
    told = (
        f"The text is the template's, and {len(case.hunks)} places have other ids, the first at position "
        f"{first.reference[0]}: it was tokenized in parts, or by another tokenizer."
    )
    return [Explanation("retokenized", told, True, {"places": len(case.hunks)})]


CUTS = 64
"""Places of a prompt that are tried as cuts, and letters of one place."""


def _cut_and_joined(case: Case) -> Explanation | None:
    """The text was cut somewhere, inside words too, as pieces of a stream are, and the parts tokenized apart."""
    encode, cuts = case.vocabulary.encode, []
    for start, said, ids in _apart(case):
        at = next((n for n in range(1, min(len(said), CUTS)) if encode(said[:n]) + encode(said[n:]) == ids), None)
        if at is None or len(cuts) == CUTS:
            return None
        cuts.append(start + at)
    if not cuts:
        return None
    text = case.reference.text
    parts = [text[start:stop] for start, stop in pairwise((0, *cuts, len(text)))]
    if tuple(number for part in parts for number in case.vocabulary.encode(part)) != case.sut.ids:
        return None
    where = visible(text[max(cuts[0] - 12, 0) : cuts[0]]) + " | " + visible(text[cuts[0] : cuts[0] + 12])
    told = (
        f"The text is the template's; it was cut inside words at {len(cuts)} place{'s' * (len(cuts) > 1)}, first at "
        f"{where}, and the parts were tokenized apart and joined."
    )
    return Explanation("retokenized_across_boundary", told, True, {"cuts": cuts[:16]})


def _apart(case: Case) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """Where equal texts have other ids: the first letter, the text, and the SUT's ids, between edges of tokens that
    both have. Nothing where a token is a part of a letter."""
    text, known = case.reference.text, {}
    edges: list[dict[int, int]] = []
    for ids in (case.reference.ids, case.sut.ids):
        at, here = 0, {0: 0}
        for count, number in enumerate(ids, 1):
            if number not in known:
                known[number] = len(case.vocabulary.text((number,)))
            at += known[number]
            here[at] = count
        if at != len(text):
            return
        edges.append(here)
    for start, stop in pairwise(sorted(edges[0].keys() & edges[1].keys())):
        mine, theirs = (
            prompt.ids[edge[start] : edge[stop]] for prompt, edge in zip((case.reference, case.sut), edges, strict=True)
        )
        if mine != theirs:
            yield start, text[start:stop], theirs


def _spelled(case: Case) -> list[Explanation]:
    """Special tokens of the template's prompt that the SUT has as the ids of their letters."""
    want, got = case.reference, case.sut
    tokens = {number: case.vocabulary.control[number] for number in set(want.ids) & case.vocabulary.control.keys()}
    wrong = [
        token
        for number, token in sorted(tokens.items())
        if want.ids.count(number) > got.ids.count(number)
        and got.text.count(token) > got.ids.count(number)
        and got.text.count(token) >= want.text.count(token)
    ]
    if not wrong:
        return []
    inside = any(token in said for token in wrong for said in case.spoken)
    note = "; it stands in a message, which an engine may well keep from being read as control" if inside else ""
    told = f"The SUT spells out {', '.join(visible(token) for token in wrong[:4])} as ordinary tokens{note}."
    return [Explanation("special_token_spelled_out", told, want.text == got.text, {"tokens": wrong})]


def _partings(case: Case, text: str) -> Iterator[tuple[str, list[str]]]:
    """Ways in which engines take a prompt apart before they tokenize it."""
    gaps = case.gaps(text)
    if gaps is not None:
        yield (
            "the delimiters and the messages",
            [part for pair in zip(gaps, (*case.spoken, ""), strict=True) for part in pair],
        )
        before = [gap + said for gap, said in zip(gaps, (*case.spoken, ""), strict=True)]
        yield "the turns, each with what precedes it,", before
        after = [said + gap for said, gap in zip(("", *case.spoken), gaps, strict=True)]
        yield "the turns, each with what follows it,", after
    yield (
        "the conversation and the opening of the assistant's turn",
        [case.unprimed.text, text[len(case.unprimed.text) :]],
    )
    yield "the lines", text.splitlines(keepends=True)
    if gaps is not None:
        first = text.find(case.spoken[-1]) if case.spoken else 0
        yield "the last message with what follows, and the rest", [text[:first], text[first:]]


def settings_giving(vocabulary: Vocabulary, text: str, ids: tuple[int, ...]) -> Iterator[str]:
    """Other settings of the same vocabulary under which `text` becomes `ids`, in words."""
    inner = vocabulary.inner
    kept = inner.encode_special_tokens
    try:
        inner.encode_special_tokens = True
        same = _gives(vocabulary, text, ids)
    finally:
        inner.encode_special_tokens = kept
    if same:
        yield "special tokens taken for ordinary text"
    before = inner.normalizer, inner.pre_tokenizer
    for name, normalizer, splitter in _settings(vocabulary.document):
        made = _parts(normalizer, splitter)
        if made is None:
            continue
        try:
            inner.normalizer, inner.pre_tokenizer = made
            same = _gives(vocabulary, text, ids)
        except Exception:  # the library raises plain Exception for a combination it does not have
            continue
        finally:
            inner.normalizer, inner.pre_tokenizer = before
        if same:
            yield name


def _gives(vocabulary: Vocabulary, text: str, ids: tuple[int, ...]) -> bool:
    return vocabulary.may_begin(text, ids) and vocabulary.encode_whole(text) == ids


def _settings(document: Any) -> Iterator[tuple[str, Any, Any]]:
    normalizer, splitter = document.get("normalizer"), document.get("pre_tokenizer")
    for key, values in (("add_prefix_space", (True, False)), ("prepend_scheme", ("always", "first", "never")),
                        ("individual_digits", (True, False)), ("use_regex", (True, False))):  # fmt: skip
        for value in values:
            changed = _with(splitter, key, value)
            if changed != splitter:
                yield f"{key}={value}", normalizer, changed
    for value in (True, False):
        digits = {"type": "Digits", "individual_digits": value}
        rest = [splitter] if splitter else []
        word = "each digit" if value else "runs of digits"
        yield f"{word} split off", normalizer, {"type": "Sequence", "pretokenizers": [digits, *rest]}
    if "ByteLevel" in json.dumps(splitter):
        for space in (False, True):
            plain = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": True}
            yield f"GPT-2's splitting, add_prefix_space={space}", normalizer, plain
    if normalizer is not None:
        yield "no normalizer", None, splitter
    for kind in ("NFC", "NFKC", "Lowercase"):
        rest = [normalizer] if normalizer else []
        yield f"normalizer {kind}", {"type": "Sequence", "normalizers": [*rest, {"type": kind}]}, splitter
    if "Metaspace" not in json.dumps(splitter):
        steps = [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "},
                                                            "content": "\u2581"}]  # fmt: skip
        if json.dumps(normalizer) != json.dumps({"type": "Sequence", "normalizers": steps}):
            yield (
                "a leading blank, as older SentencePiece classes add it",
                {"type": "Sequence", "normalizers": steps},
                splitter,
            )


def _with(part: Any, key: str, value: Any) -> Any:
    """`part` with every setting `key` in it at `value`."""
    if isinstance(part, dict):
        return {name: value if name == key else _with(inner, key, value) for name, inner in part.items()}
    if isinstance(part, list):
        return [_with(inner, key, value) for inner in part]
    return part


def _parts(normalizer: Any, splitter: Any) -> tuple[Any, Any] | None:
    """The library's objects for both; a whole tokenizer need not be read again for them."""
    from tokenizers import Tokenizer

    empty = {"type": "BPE", "vocab": {}, "merges": []}
    document = {"version": "1.0", "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": splitter,
                "post_processor": None, "decoder": None, "model": empty}  # fmt: skip
    try:
        made = Tokenizer.from_str(json.dumps(document))
    except Exception:  # a setting that the installed version does not have
        return None
    return made.normalizer, made.pre_tokenizer
