"""From which distribution should each token have been drawn? The settings asked for, applied to an engine's own logits.

Written from the definitions in parity/sampling.py, apart from any engine's or oracle's sampler: this is the judge's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parity.sampling import Sampling


@dataclass(frozen=True)
class Drawn:
    """One continuation and what it was drawn from.

    scores: [N, V] fp64 logits under penalties, bans and temperature; -inf for banned ids. kept: [N, V] ids that the
    cuts (top-k, top-p, min-p) leave. logprobs: [N, V] log-probability among those, -inf elsewhere. chosen: [N].
    """

    scores: torch.Tensor
    kept: torch.Tensor
    logprobs: torch.Tensor
    chosen: torch.Tensor


def penalized(logits: torch.Tensor, prompt: Sequence[int], chosen: Sequence[int], asked: Sampling) -> torch.Tensor:
    """[N, V] fp64 logits under the penalties and bans asked for; row n saw the prompt and `chosen[:n]`."""
    scores = logits.double().clone()
    count, vocab = scores.shape
    times = torch.zeros(vocab, dtype=torch.float64)
    seen = torch.zeros(vocab, dtype=torch.bool)
    seen[list(prompt)] = True
    r, presence, frequency = asked.repetition_penalty, asked.presence_penalty, asked.frequency_penalty
    if r != 1 or presence or frequency:
        for step in range(count):
            if r != 1:
                row = scores[step]
                scores[step] = torch.where(seen, torch.where(row > 0, row / r, row * r), row)
            scores[step] -= presence * (times > 0) + frequency * times
            times[chosen[step]] += 1
            seen[chosen[step]] = True
    if asked.allowed:
        others = torch.ones(vocab, dtype=torch.bool)
        others[list(asked.allowed)] = False
        scores[:, others] = -torch.inf
    scores[:, list(asked.banned)] = -torch.inf
    return scores


def drawn_from(logits: torch.Tensor, prompt: Sequence[int], chosen: Sequence[int], asked: Sampling) -> Drawn:
    """What the N tokens `chosen` after `prompt` were to be drawn from; logits [N, V]; temperature above 0."""
    scores = penalized(logits, prompt, chosen, asked) / asked.temperature
    kept = scores > -torch.inf
    if asked.top_k:
        least = scores.topk(min(asked.top_k, scores.shape[1]), 1).values[:, -1:]
        kept &= scores >= least
    if asked.top_p < 1:
        order, before = mass_before(scores.masked_fill(~kept, -torch.inf))
        inside = before < asked.top_p
        inside[:, 0] = True
        kept &= torch.zeros_like(kept).scatter(1, order, inside)
    if asked.min_p:
        best = scores.amax(1, keepdim=True)
        kept &= (scores - best).exp() >= asked.min_p
    logprobs = scores.masked_fill(~kept, -torch.inf).log_softmax(1)
    return Drawn(scores, kept, logprobs, torch.tensor(list(chosen), dtype=torch.int64))


def mass_before(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, V] ids by falling score, and the probability of all that come before each."""
    share, order = scores.softmax(1).sort(dim=1, descending=True, stable=True)
    return order, share.cumsum(1) - share
