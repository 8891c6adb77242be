"""Which penalties on tokens that were seen make every chosen token the largest? A range for each kind of penalty.

additive        logit - p * s, s the times a token was generated (`frequency`), or whether it was (`presence`), or
                whether it is in the prompt or generated (`presence_with_prompt`). OpenAI API reference.
multiplicative  logit / r where it is positive and logit * r where negative, for every token in the prompt or generated
                (`repetition`). Keskar et al. 2019, arXiv 1909.05858, with the sign rule of HF's
                RepetitionPenaltyLogitsProcessor.
Each pair of the chosen token and another bounds the penalty from below, from above, or contradicts it; the range is
what all steps leave. No penalty is p = 0, r = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

ADDITIVE = ("presence", "presence_with_prompt", "frequency")
KINDS = (*ADDITIVE, "repetition")


@dataclass(frozen=True)
class PenaltyRange:
    """Every penalty in [low, high] explains every choice; high is inf where none bounds it."""

    kind: str
    low: float
    high: float

    @property
    def explains_without(self) -> bool:
        """No penalty at all explains the choices too."""
        return self.low <= (1.0 if self.kind == "repetition" else 0.0) <= self.high


def fit_penalties(
    logits: torch.Tensor,
    chosen: Sequence[int],
    prompt: Sequence[int],
    *,
    banned: Sequence[int] = (),
    slack: Sequence[float] = (),
) -> tuple[PenaltyRange, ...]:
    """The range of each kind that explains all choices; kinds that explain none are left out.

    logits: [N, V] before any penalty; chosen: N ids. banned: ids that cannot be chosen, so they bound nothing.
    slack: [N], by how much a logit may be off; 0 when empty.
    """
    slack = slack or [0.0] * len(chosen)
    found = []
    for kind in KINDS:
        bound: Callable[..., tuple[float, float]] = _repetition if kind == "repetition" else _additive
        low, high = (0.0, float("inf")) if kind == "repetition" else (float("-inf"), float("inf"))
        for step, token in enumerate(chosen):
            row = logits[step].double().clone()
            if banned:
                others = [number for number in banned if number != token]
                row[others] = float("-inf")
            seen = _seen(kind, len(row), prompt, chosen[:step])
            lower, upper = bound(row, token, seen, float(slack[step]))
            low, high = max(low, lower), min(high, upper)
        if low <= high:
            found.append(PenaltyRange(kind, low, high))
    return tuple(found)


def _seen(kind: str, vocab: int, prompt: Sequence[int], generated: Sequence[int]) -> torch.Tensor:
    """[V] fp64: how often, or whether, each token counts as seen."""
    ids = [*prompt, *generated] if kind in ("presence_with_prompt", "repetition") else list(generated)
    counts = torch.bincount(torch.tensor(ids, dtype=torch.int64), minlength=vocab).double()
    return counts if kind == "frequency" else counts.clamp(max=1)


def _additive(row: torch.Tensor, token: int, seen: torch.Tensor, slack: float) -> tuple[float, float]:
    """p (s_v - s_c) >= L_v - L_c for every token v."""
    lead, more = row - row[token] - slack, seen - seen[token]
    if _beaten(lead, more == 0, token):
        return float("inf"), float("-inf")
    low = _extreme(lead[more > 0] / more[more > 0], largest=True)
    high = _extreme(lead[more < 0] / more[more < 0], largest=False)
    return low, high


def _repetition(row: torch.Tensor, token: int, seen: torch.Tensor, slack: float) -> tuple[float, float]:
    """r from the pairs of one seen and one unseen token; two of a kind keep their order under any r > 0."""
    same = seen == seen[token]
    if _beaten(row - row[token] - slack, same, token):
        return float("inf"), float("-inf")
    own = float(row[token]) + slack
    others = row[~same]
    others = others[torch.isfinite(others)]
    if not len(others):
        return 0.0, float("inf")
    if not seen[token]:
        # The others shrink: r >= L_v / L_c where both are positive, r >= L_c / L_v where both are negative.
        if own > 0:
            return float((others.clamp(min=0) / own).max()), float("inf")
        if bool((others >= 0).any()) and own < 0:
            return float("inf"), float("-inf")
        return float((own / others).max()) if own < 0 else 0.0, float("inf")
    best = float(others.max())
    if own >= 0:
        return 0.0, own / best if best > 0 else float("inf")
    return 0.0, best / own if best < 0 else float("-inf")


def _beaten(lead: torch.Tensor, among: torch.Tensor, token: int) -> bool:
    """Some other token of the same standing has the larger logit, whatever the penalty."""
    lead = lead.clone()
    lead[token] = float("-inf")
    rivals = lead[among]
    return bool((rivals > 0).any())


def _extreme(values: torch.Tensor, *, largest: bool) -> float:
    values = values[~torch.isnan(values)]
    if not len(values):
        return float("-inf") if largest else float("inf")
    return float(values.max() if largest else values.min())
