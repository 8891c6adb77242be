"""Do both engines write the same? Their greedy continuations of one prompt, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from parity.display import Displayed
from parity.graft.effect import agreement
from parity.runner import Generation


@dataclass(frozen=True)
class Texts(Displayed):
    """Greedy continuations. pieces: each new token as text, (oracle's, SUT's), empty where only ids are known."""

    oracle: Generation
    sut: Generation
    pieces: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def agree(self) -> int:
        """Tokens from the start on in which they agree."""
        return agreement(self.sut.ids, self.oracle.ids)

    def __repr__(self) -> str:
        of = max(len(self.sut.ids), len(self.oracle.ids))
        return f"Texts({self.agree} of {of} tokens agree; oracle {self.oracle.text!r}, sut {self.sut.text!r})"
