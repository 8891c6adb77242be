"""Which token comes next? The choice under the settings asked for and those that an engine instance runs with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.errors import ConfigError
from parity.faults import Where, telling
from parity.sampling import Sampling as Asked

IN_FORCE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
"""Settings that an instance can be built with; those override what a call asks for."""


@dataclass(frozen=True)
class Sampling:
    """Settings of one engine instance, reported as they are.

    suppress_tokens: ids never chosen (`suppress_tokens` of generation_config.json, as HF reads it).
    fixed: settings of `parity.sampling.Sampling` by name that hold whatever a call asks for.
    sampler: a planted fault's choice in place of all this.
    """

    suppress_tokens: tuple[int, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict)
    sampler: Callable[[torch.Tensor], int] | None = None

    @classmethod
    def beside(cls, folder: Path, *, vocab: int, settings: Mapping[str, Any], sampler: Any = None) -> Sampling:
        """The settings of a model folder and of the instance. Raises ConfigError for ids that are none."""
        path = folder / "generation_config.json"
        listed: Any = ()
        if path.is_file():
            try:
                content = json.loads(path.read_text())
            except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
                raise _wrong(path, "readable JSON", str(error)) from error
            listed = (content.get("suppress_tokens") if isinstance(content, dict) else None) or ()
        banned = (*listed, *settings.get("suppress_tokens", ()))
        for token in banned:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab:
                raise _wrong(path, f"suppress_tokens from 0 to {vocab - 1}", repr(token))
        fixed = {name: settings[name] for name in IN_FORCE if name in settings}
        return cls(tuple(dict.fromkeys(banned)), fixed, sampler)

    def describe(self, asked: Asked | None = None) -> dict[str, Any]:
        """The settings in force under what a call asks, as plain values, for a trace and for an audit."""
        now = self.in_force(asked)
        stated = {name: value for name, value in now.settings().items() if name != "banned"}
        return {"greedy": now.greedy, "suppress_tokens": list(now.banned), **stated}

    def in_force(self, asked: Asked | None) -> Asked:
        """What is asked, under what this instance fixes; ids that it suppresses stay suppressed."""
        asked = asked or Asked()
        return replace(asked, banned=(*self.suppress_tokens, *asked.banned), **self.fixed)

    def choose(self, logits: torch.Tensor, ids: Sequence[int], *, prompt: int, asked: Asked | None = None) -> int:
        """The next token after `ids`, of which the first `prompt` were given; logits: [V] fp32. Ties: the lower id.

        A draw inverts the cumulative distribution at a uniform number that follows from the seed and the number of the
        new token alone, so that continuations of one seed agree up to where their logits part.
        """
        if self.sampler is not None:
            step = len(ids) - prompt
            with telling(Where("sampler", phase="decode", step=step, ids=tuple(ids), prompt=prompt)):
                return int(self.sampler(logits))
        now = self.in_force(asked)
        logits = penalized(logits, ids, prompt, now)
        if now.greedy:
            return int(logits.argmax())
        order, share = kept(logits, now)
        uniform = np.random.Generator(np.random.Philox(key=[now.seed, len(ids) - prompt])).random()
        place = int(np.searchsorted(np.cumsum(share), uniform * share.sum(), side="right"))
        return int(order[min(place, len(order) - 1)])


def penalized(logits: torch.Tensor, ids: Sequence[int], prompt: int, now: Asked) -> torch.Tensor:
    """[V] logits under the penalties and bans; the tensor itself where there is none."""
    counted = len(ids) > prompt and (now.presence_penalty or now.frequency_penalty)
    if now.repetition_penalty == 1 and not counted and not now.banned and not now.allowed:
        return logits
    logits = logits.clone()
    if now.repetition_penalty != 1:
        seen = sorted(set(ids))
        values = logits[seen]
        logits[seen] = torch.where(values > 0, values / now.repetition_penalty, values * now.repetition_penalty)
    if counted:
        seen, times = np.unique(np.asarray(ids[prompt:]), return_counts=True)
        logits[seen] -= now.presence_penalty + now.frequency_penalty * torch.from_numpy(times).to(logits)
    if now.allowed:
        outside = torch.ones(len(logits), dtype=torch.bool)
        outside[list(now.allowed)] = False
        logits[outside] = float("-inf")
    if now.banned:
        logits[list(now.banned)] = float("-inf")
    return logits


def kept(logits: torch.Tensor, now: Asked) -> tuple[np.ndarray, np.ndarray]:
    """Ids that may be drawn, likeliest first, and their probabilities in fp64, which need not add up to 1."""
    scores = logits.double().cpu().numpy() / now.temperature
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    share = np.exp(scores - scores[0])
    if now.top_k and now.top_k < len(share):
        share = share[scores >= scores[now.top_k - 1]]
    if now.top_p < 1:
        before = np.cumsum(share) - share
        share = share[before < now.top_p * share.sum()]
    if now.min_p:
        share = share[share >= now.min_p * share[0]]
    return order[: len(share)], share


def _wrong(path: Path, expected: str, found: str) -> ConfigError:
    return ConfigError(
        place=str(path), expected=expected, found=found, next_step="Correct the file, or the setting of the instance."
    )
