"""Which token does HF draw? Its own logits processors and warpers, in its own order, and torch.multinomial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from parity.sampling import Sampling
from parity_oracles.sampling import draw_seed, first_largest


class SeenPenalty(LogitsProcessor):
    """Presence and frequency penalties on generated ids, which HF has none of. Source: OpenAI API reference."""

    def __init__(self, presence: float, frequency: float, prompt: int) -> None:
        self.presence, self.frequency, self.prompt = presence, frequency, prompt

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        new = torch.zeros_like(scores)
        generated = input_ids[:, self.prompt :]
        new.scatter_add_(1, generated, torch.ones_like(generated, dtype=scores.dtype))
        return scores - self.presence * new.clamp(max=1) - self.frequency * new


def processors(sampling: Sampling, *, prompt: int, vocab: int) -> LogitsProcessorList:
    """HF's processors for these settings, in the order of `GenerationMixin._get_logits_processor`."""
    made: list[Any] = []
    if sampling.repetition_penalty != 1:
        made.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.presence_penalty or sampling.frequency_penalty:
        made.append(SeenPenalty(sampling.presence_penalty, sampling.frequency_penalty, prompt))
    allowed = sampling.allowed or range(vocab)
    banned = sorted({*sampling.banned, *(set(range(vocab)) - set(allowed))})
    if banned:
        made.append(SuppressTokensLogitsProcessor(banned))
    if not sampling.greedy:
        made.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k:
            made.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            made.append(TopPLogitsWarper(float(sampling.top_p)))
        if sampling.min_p:
            made.append(MinPLogitsWarper(float(sampling.min_p)))
    return LogitsProcessorList(made)


def processed(logits: torch.Tensor, ids: Sequence[int], *, prompt: int, sampling: Sampling) -> torch.Tensor:
    """[V] fp32 scores as HF leaves them, from [V] logits; -inf for what cannot be drawn."""
    made = processors(sampling, prompt=prompt, vocab=len(logits))
    # A copy: the repetition penalty writes into what it is given.
    return torch.as_tensor(made(torch.tensor([list(ids)]), logits.float().clone()[None]))[0]  # pyright: ignore[reportArgumentType]


def choose(logits: torch.Tensor, ids: Sequence[int], *, prompt: int, sampling: Sampling) -> int:
    """The next token after `ids`, of which the first `prompt` were given."""
    scores = processed(logits, ids, prompt=prompt, sampling=sampling)
    if sampling.greedy:
        return first_largest(scores)
    generator = torch.Generator().manual_seed(draw_seed(sampling.seed, len(ids) - prompt))
    return int(torch.multinomial(scores.softmax(0), 1, generator=generator))
