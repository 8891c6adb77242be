"""What may a rule look at? Both prompts as ids and text, what stands between the messages, and what else renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from parity.prompt.alignment import Hunk, align
from parity.prompt.conversation import Conversation, contents
from parity.prompt.folder import ModelFolder
from parity.prompt.vocabulary import Vocabulary


@dataclass(frozen=True)
class Prompted:
    """One prompt as ids, and the text of those ids."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Candidate:
    """Another rendering that the SUT may have fed. name, sentence: the explanation if it did. own: it is by the
    template that counts, which then needs no other one to explain the ids."""

    name: str
    sentence: str
    prompt: Prompted
    evidence: Mapping[str, str] = field(default_factory=dict)
    own: bool = False


@dataclass(frozen=True)
class Case:
    """Everything that rules read.

    reference: by the template, under the settings that come nearest; sut: what was fed. unprimed: the reference
    without the opening of the assistant's turn; the reference itself where it opens none. primed: it was asked for.
    candidates: renderings by other templates and with other arguments.
    """

    folder: ModelFolder
    vocabulary: Vocabulary
    conversation: Conversation
    reference: Prompted
    sut: Prompted
    unprimed: Prompted
    primed: bool
    candidates: tuple[Candidate, ...] = ()

    def fed(self, ids: tuple[int, ...]) -> Case:
        """The case with other ids fed."""
        return replace(self, sut=Prompted(ids, self.vocabulary.text(ids)))

    def against(self, reference: Prompted) -> Case:
        """The case with another reference."""
        return replace(self, reference=reference)

    @cached_property
    def hunks(self) -> tuple[Hunk, ...]:
        """Where the ids differ."""
        return align(self.reference.ids, self.sut.ids)

    @cached_property
    def changes(self) -> tuple[tuple[str, str], ...]:
        """For each hunk the text that the reference has there, and the SUT's."""
        v = self.vocabulary
        return tuple(
            (v.text(self.reference.ids[slice(*h.reference)]), v.text(self.sut.ids[slice(*h.sut)])) for h in self.hunks
        )

    @cached_property
    def opening(self) -> str:
        """What the template writes to open the assistant's turn; empty where it writes nothing."""
        whole, without = self.reference.text, self.unprimed.text
        return whole[len(without) :] if whole.startswith(without) else ""

    @cached_property
    def spoken(self) -> tuple[str, ...]:
        """The messages' texts that the reference holds, in order; those that it leaves out or rewrites are not here."""
        given = (text.strip() for text in contents(self.conversation.messages))
        return _held(self.reference.text, tuple(text for text in given if text))

    def gaps(self, text: str) -> tuple[str, ...] | None:
        """`text` without the messages' own texts: what stands before each, and after the last. None when one of them
        is not there in its place."""
        found, at = [], 0
        for said in self.spoken:
            place = text.find(said, at)
            if place < 0:
                return None
            found.append(text[at:place])
            at = place + len(said)
        return (*found, text[at:])


def _held(text: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    held, at = [], 0
    for part in parts:
        place = text.find(part, at)
        if place >= 0:
            held.append(part)
            at = place + len(part)
    return tuple(held)


def bare(text: str) -> str:
    """`text` without blanks and newlines."""
    return "".join(text.split())
