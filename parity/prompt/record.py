"""What did a comparison of prompts find? Frozen records, the same for a person, a script and the ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.prompt.alignment import Hunk


@dataclass(frozen=True)
class Explanation:
    """Why two prompts differ. name: from the table NAMES in parity.prompt.names. complete: it accounts for every id
    that differs; otherwise for part of them. sentence: for a person. evidence: what it rests on, by name."""

    name: str
    sentence: str
    complete: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """The first difference. position: in both sequences, up to there they are equal. reference, sut: id and visible
    text there, None where a side has ended. before: the visible text of up to eight ids that precede it."""

    position: int
    reference: tuple[int, str] | None
    sut: tuple[int, str] | None
    before: str


@dataclass(frozen=True)
class PromptComparison:
    """What an engine fed against what the checkpoint's own template makes of the conversation.

    same: the ids are equal under settings that the caller may have chosen, and as many as the engine says it fed.
    model, template: the folder's name and the file whose template was used. source: where the SUT's ids come from.
    settings: template arguments, other than those asked for, under which the reference was rendered: those that
        reproduce the SUT's ids, else those that come nearest. asked: the arguments asked for; unread: those of them
        that the template never reads, as a misspelled one.
    tried: settings rendered; all_tried: False when there were more than were rendered.
    hunks: where both differ; reference_pieces, sut_pieces: the visible text of each id.
    counted: prompt tokens that the engine reports; None where it reports none.
    explanations: most certain first; empty when the prompts are the same.
    """

    same: bool
    model: str
    template: str
    source: str
    asked: Mapping[str, Any]
    settings: Mapping[str, Any]
    tried: int
    all_tried: bool
    reference_ids: tuple[int, ...]
    sut_ids: tuple[int, ...]
    reference_text: str
    sut_text: str
    reference_pieces: tuple[str, ...] = field(repr=False)
    sut_pieces: tuple[str, ...] = field(repr=False)
    hunks: tuple[Hunk, ...] = ()
    first: Difference | None = None
    counted: int | None = None
    explanations: tuple[Explanation, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def explanation(self) -> str | None:
        """The name of the most certain explanation."""
        return self.explanations[0].name if self.explanations else None
