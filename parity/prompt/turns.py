"""Is something wrong between the messages? Thinking sections, system messages, delimiters, newlines."""

from __future__ import annotations

import re
from dataclasses import replace

from parity.prompt.evidence import Case, bare
from parity.prompt.record import Explanation
from parity.prompt.vocabulary import visible

THINKING = re.compile(r"<(/?)(?:think|thinking|thought|reasoning|seed:think)>|\[(/?)THINK\]|◁(/?)think▷")
"""Tags of thinking sections that published templates write."""

ROLES = re.compile(r"\b(?:system|developer|user|assistant|model|human)\b", re.IGNORECASE)

EMPTY = re.compile(
    r"(?:#{1,6} [^\n]{0,60}|[^\n:]{0,60}:)?\s*(?:none|null|n/a|undefined|\{\}|\[\]|-)?\s*", re.IGNORECASE
)
"""A line that says nothing: blank, a heading (of Markdown, or before a colon) with nothing behind it, or a heading and
a word for nothing."""


def thinking(case: Case) -> Explanation | None:
    """Thinking sections opened or closed otherwise than by the template."""
    (opened, closed), (opens, closes) = _tags(case.reference.text), _tags(case.sut.text)
    more, closing = opens - opened, closes - closed
    if more == closing == 0:
        return None
    if more > 0:
        name, what = "think_injected", "opens a thinking section more than the template does"
    elif more < 0:
        name, what = "think_missing", "lacks the thinking section that the template opens"
    elif closing > 0:
        name, what = "think_closed", "closes a thinking section that the template leaves open"
    else:
        name, what = "think_left_open", "leaves a thinking section open that the template closes"
    tagged = [pair for pair in case.changes if any(THINKING.search(text) for text in pair)]
    rest = [pair for pair in case.changes if pair not in tagged and any(bare(text) for text in pair)]
    shown = "; ".join(f"{visible(a) or 'nothing'} became {visible(b) or 'nothing'}" for a, b in tagged[:3])
    said = f"The SUT's prompt {what}" + (f": {shown}." if shown else ".")
    only = bool(tagged) and not rest and all(not bare(THINKING.sub("", text)) for pair in tagged for text in pair)
    return Explanation(name, said, only, {"opened": more, "closed": closing})


def _tags(text: str) -> tuple[int, int]:
    found = ["".join(part or "" for part in groups) for groups in THINKING.findall(text)]
    return found.count(""), found.count("/")


def system_message(case: Case) -> Explanation | None:
    """A system message that the conversation does not have."""
    inserted = "".join(added for _, added in case.changes)
    if not re.search(r"\b(?:system|developer)\b|<<SYS>>", inserted, re.IGNORECASE):
        return None
    if any(bare(removed) for removed, _ in case.changes):
        return None
    gaps = case.gaps(case.sut.text)
    if gaps is None:
        return None
    said = inserted
    for token in sorted(case.vocabulary.control.values(), key=len, reverse=True):
        said = said.replace(token, "\n")
    said = "\n".join(line for line in said.split("\n") if not ROLES.fullmatch(line.strip(" :#<|>[]")))
    return replace(judge_system(said), complete=True)


def judge_system(content: str) -> Explanation:
    """What a system message that nobody gave says: nothing, or something."""
    said = content.strip()
    if all(EMPTY.fullmatch(line) for line in said.split("\n")):
        told = f"The SUT's prompt holds a system message that says nothing ({visible(said) or 'it is empty'})."
        return Explanation("system_message_empty", told + " Nobody gave it.", evidence={"content": said})
    told = f"The SUT's prompt holds a system message that nobody gave: {visible(said)[:120]}"
    return Explanation("system_message_added", told, evidence={"content": said[:1000]})


def delimiters(case: Case) -> list[Explanation]:
    """Turns delimited otherwise; where nothing of the template's delimiters is left, another template's prompt."""
    want, got = case.gaps(case.reference.text), case.gaps(case.sut.text)
    if want is None or got is None or not case.spoken:
        return []
    other = [(a, b) for a, b in zip(want, got, strict=True) if _other(bare(a), bare(b))]
    if not other:
        return []
    found = []
    first = other[0]
    said = f"The template writes {visible(first[0])} where the SUT has {visible(first[1]) or 'nothing'}."
    evidence = {"template": [a for a, _ in other][:4], "sut": [b for _, b in other][:4]}
    # The token that begins a sequence delimits no turn, and a missing one has been put in its place by now.
    begins = case.folder.special.get("bos_token")
    written = {token for token in case.vocabulary.control.values() if any(token in gap for gap in want)} - {begins}
    marks = written or {bare(a) for a, _ in other}
    if not any(mark in bare(gap) for mark in marks for gap in got):
        who = "No delimiter of the template is in the SUT's prompt, and the messages are. " + said
        if case.folder.from_file:
            source = case.folder.chosen(tools=bool(case.conversation.tools)).source
            told = f"{who} {source} was not used: a loader that looks in tokenizer_config.json alone does not find it."
            found.append(Explanation("template_file_ignored", told, True, evidence))
        found.append(Explanation("other_template", who, True, evidence))
    found.append(Explanation("role_delimiters", said, False, evidence))
    return found


def delimiters_left_out(case: Case) -> Explanation | None:
    """Tokens that delimit turns left out, or put in, and nothing else at that place."""
    want, got = case.gaps(case.reference.text), case.gaps(case.sut.text)
    if want is None or got is None:
        return None
    marks = set(case.vocabulary.control.values())
    between = zip(want[:-1], got[:-1], strict=True)  # what stands behind the last message opens the assistant's turn
    other = [(a, b) for a, b in between if any(a.count(mark) != b.count(mark) for mark in marks)]
    if not other:
        return None
    said = f"The template writes {visible(other[0][0])} where the SUT has {visible(other[0][1]) or 'nothing'}."
    evidence = {"template": [a for a, _ in other][:4], "sut": [b for _, b in other][:4]}
    pattern = re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)))
    alone = all(bare(pattern.sub("", a)) == bare(pattern.sub("", b)) for a, b in case.changes)
    return Explanation("role_delimiters", said, alone, evidence)


def _other(a: str, b: str) -> bool:
    """Neither holds the other: nothing was merely left out or put in."""
    return a not in b and b not in a


def missing_messages(case: Case) -> Explanation | None:
    """A message's text that the template writes and the SUT does not."""
    lost = [said for said in case.spoken if said not in case.sut.text]
    if not lost:
        return None
    said = f"{len(lost)} of {len(case.spoken)} messages are not in the SUT's prompt as they were given: "
    return Explanation("message_missing", said + visible(lost[0])[:80], False, {"first": lost[0][:1000]})


def blanks(case: Case) -> list[Explanation]:
    """Newlines and blanks that differ and nothing else at that place."""
    alike = [(a, b) for a, b in case.changes if bare(a) == bare(b) and a != b]
    if not alike:
        return []
    whole = len(alike) == len(case.changes)
    at_end = case.sut.text.rstrip() == case.reference.text.rstrip()
    lines = [(a.count("\n"), b.count("\n")) for a, b in alike]
    places = f"at {len(alike)} place{'s' * (len(alike) > 1)}, first {visible(alike[0][0]) or 'nothing'} became "
    places += f"{visible(alike[0][1]) or 'nothing'}."
    found = []
    if at_end and len(case.sut.text) > len(case.reference.text):
        found.append(Explanation("newline_trailing", f"The SUT's prompt ends in blanks of its own: {places}", whole))
    elif any(b < a for a, b in lines):
        found.append(
            Explanation("newline_missing", f"The SUT's prompt lacks newlines of the template's {places}", whole)
        )
    if any(b > a for a, b in lines) and not found:
        found.append(
            Explanation("newline_extra", f"The SUT's prompt has newlines that the template lacks {places}", whole)
        )
    if not found and all(a == b for a, b in lines):
        found.append(Explanation("whitespace", f"Blanks differ {places}", whole))
    return found
