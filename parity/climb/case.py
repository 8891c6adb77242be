"""What is investigated? Which engine, on which prompt, against which oracle: everything that was asked, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.decode import exchange_halves
from parity.prompt import Conversation
from parity.runner import Request, Schedule

TRACE = "trace:"
"""Prefix of an engine that is a trace on disk alone."""

NEW_TOKENS = 16

CHECKED = {
    "coverage": "launches that fall short",
    "sums": "sums that do not come out: routing weights, tokens per expert, permutations",
    "probes": "probes that change what is computed",
    "history": "results that depend on earlier requests",
    "poison": "results that depend on memory that nobody wrote",
    "chunks": "results that depend on how a prompt is cut into chunks",
    "batch": "results that depend on the batch",
    "padding": "results that depend on padding",
    "decode": "a token that is decoded otherwise than prefilled",
    "causality": "results that depend on later tokens",
}
"""Invariances of rung 3 in order, and what each rules out where it holds; `repeat` is part of `history`, and
relabelling and sister paths cost more than they rule out here."""


@dataclass(frozen=True)
class Case:
    """What was asked, as `case.json` holds it.

    sut, oracle, emulation: `NAME:MODEL`; the engine may be `trace:FOLDER`. Options as `open_runner` takes them.
    oracle: exact, on the engine's weights. emulation: replays the engine's recipe; without one nothing is audited,
        nothing is proved, and stages have no distance gate.
    request: the prompt; second: an independent one on which a finding must repeat, None to make one.
    conversations: to be rendered by the engine and by the template; empty for the standard ones. sut_ids: what the
        engine fed of the first conversation, where it cannot be asked. model: folder of template and tokenizer.
    schedule: how the prompt is fed. new_tokens: of the continuation. floor: file of the noise floor.
    calibrate: prompt files and folders of them, from which a floor of the engine's recipe is made where none is given.
    claim: a diagnosis that somebody made and that is to be tried. knobs: turn the engine's variants one at a time where
        rung 2 found a symptom. checks: names of the invariances that rung 3 tries; empty for all.
    """

    sut: str
    oracle: str
    request: Request
    second: Request | None = None
    emulation: str | None = None
    sut_options: Mapping[str, Any] = field(default_factory=dict)
    oracle_options: Mapping[str, Any] = field(default_factory=dict)
    conversations: tuple[Conversation, ...] = ()
    sut_ids: tuple[int, ...] = ()
    model: str | None = None
    floor: str | None = None
    calibrate: tuple[str, ...] = ()
    schedule: Schedule = Schedule()
    new_tokens: int = NEW_TOKENS
    claim: str | None = None
    knobs: bool = False
    checks: tuple[str, ...] = ()
    threads: int = 1

    @property
    def trace_folder(self) -> str | None:
        """Folder of the trace that stands for the engine; None where there is an engine."""
        return self.sut.removeprefix(TRACE) if self.sut.startswith(TRACE) else None

    def second_request(self) -> tuple[Request, str]:
        """The independent prompt, and how it came about.

        Made from the first where none was given: its second half before its first, so that the experts' loads stay
        alike while every token has another position and another context.
        """
        if self.second is not None:
            return self.second, "given"
        how = f"made of the first: its ids from {len(self.request.ids) // 2} on, then those before"
        return exchange_halves(self.request), how
