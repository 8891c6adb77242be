"""Why does the fed prompt differ from the template's? Every rule, and the order of their answers."""

from __future__ import annotations

from dataclasses import replace

from parity.prompt.edges import cut, first_token, last_token, opening, repeated
from parity.prompt.evidence import Case
from parity.prompt.names import RANK
from parity.prompt.recoded import recoded
from parity.prompt.record import Explanation
from parity.prompt.tooling import tools
from parity.prompt.turns import blanks, delimiters, delimiters_left_out, missing_messages, system_message, thinking

BUILT = {"bos_missing", "assistant_priming_missing", "newline_missing", "newline_extra", "think_missing", "whitespace",
         "role_delimiters"}  # fmt: skip
"""What a prompt that follows the format from memory gets wrong; two of them at once are no single setting."""


def explain(case: Case) -> tuple[Explanation, ...]:
    """What accounts for the difference, complete explanations first, then by their order in NAMES.

    What is wrong at the ends (first token, last token, opening of the assistant's turn) is put right before the rules
    for the middle look, so that two defects at once are both named. Where the template itself, with a tool or a message
    more or less, gives the SUT's ids, no other rule is asked. Empty for equal ids; never empty for others.
    """
    if not case.hunks:
        return ()
    again = repeated(case)
    if again is not None:
        return (again,)
    fed = [other for other in case.candidates if other.prompt.ids == case.sut.ids]
    fed = [other for other in fed if other.own] or fed
    found = [Explanation(other.name, other.sentence, True, other.evidence) for other in fed]
    if any(other.own for other in fed):
        return _ranked(_once(found))
    found += _without_bos(case)
    whole = cut(case)
    if whole is not None:
        found.append(whole)
    rest, ends = case, []
    for look in (first_token, last_token, opening):
        said, rest = look(rest)
        if said is not None:
            ends.append(said)
    middle: list[Explanation] = []
    if rest.hunks:
        single = (thinking(rest), system_message(rest), tools(rest), missing_messages(rest))
        middle = [one for one in single if one is not None]
        if any(one.name.startswith("tools_") for one in middle):
            # A described tool is a system message with a content; it is told once.
            middle = [one for one in middle if not one.name.startswith("system_message")]
        middle += delimiters(rest) + blanks(rest) + recoded(rest)
    # A part is a whole where nothing else is wrong: one end and an equal middle, or an untouched end and one middle.
    ends = [replace(one, complete=len(ends) == 1 and not rest.hunks) for one in ends]
    middle = [replace(one, complete=one.complete and not ends) for one in middle]
    found += ends + middle
    found = _once(found)
    if len({one.name for one in found} & BUILT) > 1 and not any(one.complete for one in found):
        names = [one.name for one in sorted(found, key=lambda one: RANK[one.name]) if one.name in BUILT]
        said = "The prompt follows the template's format and not its text, in several places: " + ", ".join(names) + "."
        if not any(one.name in ("other_template", "template_file_ignored") for one in found):
            found.append(Explanation("hand_rolled", said, not _others(found), {"parts": names}))
    left_out = delimiters_left_out(rest) if not found else None
    if left_out is not None:
        found.append(left_out)
    if not found:
        found.append(Explanation("unexplained", "No rule accounts for the difference; both prompts are shown above."))
    return _ranked(found)


def _ranked(found: list[Explanation]) -> tuple[Explanation, ...]:
    return tuple(sorted(found, key=lambda one: (not one.complete, RANK[one.name])))


def _others(found: list[Explanation]) -> bool:
    return any(one.name not in BUILT for one in found)


def _without_bos(case: Case) -> list[Explanation]:
    """Candidates that the SUT fed but for the token that begins a sequence."""
    bos = case.vocabulary.number(case.folder.special.get("bos_token"))
    if bos is None:
        return []

    def bare(ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids[next((at for at, one in enumerate(ids) if one != bos), len(ids)) :]

    return [
        Explanation(other.name, other.sentence, False, other.evidence)
        for other in case.candidates
        if not other.own
        and other.prompt.ids != case.sut.ids
        and bare(other.prompt.ids) == bare(case.sut.ids) != bare(case.reference.ids)
    ]


def _once(found: list[Explanation]) -> list[Explanation]:
    """The first of each name, a complete one before others."""
    best: dict[str, Explanation] = {}
    for one in found:
        if one.name not in best or (one.complete and not best[one.name].complete):
            best[one.name] = one
    return list(best.values())
