"""What can be compared where an engine shows only some log-probabilities of a position, and no logits?

A server gives the largest K log-probabilities and hides the rest; a trace has minus infinity there. For the rest it is
taken that the engine agrees with the other side, scaled to the probability that is left, and that nothing hidden is
larger than the least shown. So what is measured is what the shown numbers alone prove: the KL is that of the shown
tokens and one bucket for all others, at most the KL of all (data processing inequality; Cover & Thomas 2006, section
2.8), wherever the bound on the hidden ones does not bind.

Log-probabilities are logits less one number a position. Where one side has logits and the other log-probabilities, the
latter are moved by the mean difference: of all such numbers the one that leaves the least distance, so that no row is
called far off for it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from parity.decode.side import Forced
from parity.records import Run

LOG_PROBABILITIES = "log-probabilities"
"""What `Run.flags["logits"]` says of a runner that shows these."""


def shows_log_probabilities(run: Run) -> bool:
    """Whether the stage `logits` of a run holds log-probabilities, minus infinity where one was not shown."""
    return run.flags.get("logits") == LOG_PROBABILITIES


def on_common_ground(oracle: Forced, sut: Forced) -> tuple[Forced, Forced]:
    """Both sides with finite, comparable logits at every id; sides that show logits come back as they are.

    Sides of other shapes come back untouched: that is another refusal.
    """
    if oracle.logits.shape != sut.logits.shape:
        return oracle, sut
    if shows_log_probabilities(oracle.run):
        like = sut.logits if not shows_log_probabilities(sut.run) else None
        oracle = replace(oracle, logits=_completed(oracle.logits, like))
    if shows_log_probabilities(sut.run):
        sut = replace(sut, logits=_completed(sut.logits, oracle.logits))
    return oracle, sut


def completed(forced: Forced) -> Forced:
    """The same with numbers for what was not shown, spread evenly; the largest stays the largest."""
    if not shows_log_probabilities(forced.run):
        return forced
    return replace(forced, logits=_completed(forced.logits, None))


def said_of_hidden(*sides: Forced) -> str:
    """How much the sides show, in words; empty where all of them show logits."""
    said = []
    for side in sides:
        if shows_log_probabilities(side.run):
            least, size = int((side.logits != -torch.inf).sum(1).min()), side.logits.shape[1]
            rest = "" if least == size else ": KL and distances are lower bounds"
            said.append(f"{side.run.model} shows at least {least} of {size} log-probabilities a position{rest}")
    return "; ".join(said)


def _completed(logits: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    """[T, V] float64 without minus infinity.

    like: [T, V], the other side, whose shape the hidden ids take and to whose level rows are moved; None: even.
    """
    x = logits.double()
    hidden = x == -torch.inf
    if hidden.any():
        shown = x.masked_fill(hidden, torch.inf)
        # A hair below: of two that tie, argmax takes the lower id, and a hidden one must not win.
        most = shown.amin(1, keepdim=True)
        most = torch.nextafter(most, torch.full_like(most, -torch.inf))
        left = (1 - x.exp().sum(1, keepdim=True)).clamp(min=torch.finfo(torch.float64).tiny).log()
        shape = torch.zeros_like(x) if like is None else like.double()
        shape = shape.masked_fill(~hidden, -torch.inf).log_softmax(1)
        x = torch.where(hidden, torch.minimum(shape + left, most), x)
    if like is not None:
        x = x + (like.double() - x).mean(1, keepdim=True)
    return x


__all__ = ["LOG_PROBABILITIES", "completed", "on_common_ground", "said_of_hidden", "shows_log_probabilities"]
