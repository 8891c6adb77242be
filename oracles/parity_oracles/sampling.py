"""Which token would a correct sampler draw? The settings applied as their sources define them, in plain fp64 torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parity.sampling import Sampling


def choose(logits: torch.Tensor, ids: Sequence[int], *, prompt: int, sampling: Sampling) -> int:
    """The next token after `ids`, of which the first `prompt` were given; logits [V]. Greedy ties go to the lower id.

    A draw is Gumbel-max: the largest of log-probability plus Gumbel noise of the seed and the number of the new token.
    """
    scores = processed(logits, ids, prompt=prompt, sampling=sampling)
    if sampling.greedy:
        return first_largest(scores)
    generator = torch.Generator().manual_seed(draw_seed(sampling.seed, len(ids) - prompt))
    uniform = torch.rand(len(scores), generator=generator, dtype=torch.float64).clamp(min=1e-300)
    return int((scores - torch.log(-torch.log(uniform))).argmax())


def processed(logits: torch.Tensor, ids: Sequence[int], *, prompt: int, sampling: Sampling) -> torch.Tensor:
    """[V] fp64 scores whose softmax the token is drawn from; -inf for what cannot be drawn."""
    scores = logits.double().clone()
    vocab = len(scores)
    if sampling.repetition_penalty != 1:
        seen = torch.bincount(torch.tensor(list(ids)), minlength=vocab) > 0
        shrunk = torch.where(scores > 0, scores / sampling.repetition_penalty, scores * sampling.repetition_penalty)
        scores = torch.where(seen, shrunk, scores)
    new = torch.bincount(torch.tensor(list(ids[prompt:]), dtype=torch.int64), minlength=vocab)
    scores -= sampling.presence_penalty * (new > 0) + sampling.frequency_penalty * new
    scores[list(sampling.banned)] = -torch.inf
    if sampling.allowed:
        others = torch.ones(vocab, dtype=torch.bool)
        others[list(sampling.allowed)] = False
        scores[others] = -torch.inf
    if sampling.greedy:
        return scores
    scores /= sampling.temperature
    if sampling.top_k:
        scores[scores < scores.topk(min(sampling.top_k, vocab)).values[-1]] = -torch.inf
    if sampling.top_p < 1:
        probability, order = scores.softmax(0).sort(descending=True, stable=True)
        beyond = probability.cumsum(0) - probability >= sampling.top_p
        beyond[0] = False
        scores[order[beyond]] = -torch.inf
    if sampling.min_p:
        probability = scores.softmax(0)
        scores[probability < sampling.min_p * probability.max()] = -torch.inf
    return scores


def draw_seed(seed: int, number: int) -> int:
    """A generator's seed for new token `number`; other ones for all numbers below a million."""
    return (seed * 1_000_003 + number) % 2**63


def first_largest(logits: torch.Tensor) -> int:
    """The lowest id among the largest logits; written out, since argmax does not promise which of a tie it gives."""
    return int((logits == logits.max()).nonzero()[0])
