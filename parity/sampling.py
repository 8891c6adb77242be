"""What may a caller ask of a sampler? The settings of `generate`, in the order in which they apply.

1. `repetition_penalty` on every id of the prompt or generated; `presence_penalty` and `frequency_penalty` on generated
   ids. 2. `banned` ids out, and all but `allowed` ones. 3. `temperature`. 4. `top_k`, then `top_p`, then `min_p`, each
   on what the one before left. That is the order of HF's `GenerationMixin._get_logits_processor`; engines that cut
   before they scale give other distributions, and that is a difference worth seeing.

An engine and an oracle each implement this by themselves: here are the settings, and no arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from parity.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """Settings asked for. The defaults are plain greedy decoding.

    temperature: 0 takes the largest logit, ties to the lower id; above 0 logits are divided by it. top_k: ids kept, 0
    for all; ids as large as the last one kept stay. top_p: the smallest set of the likeliest ids whose probability
    reaches it, at least one; 1 for all (Holtzman et al. 2020, arXiv 1904.09751). min_p: ids at least that share of the
    likeliest one's probability stay; 0 for all (Nguyen et al. 2024, arXiv 2407.01082).
    repetition_penalty: r > 0 divides positive logits and multiplies negative ones, 1 for none (Keskar et al. 2019,
    arXiv 1909.05858). presence_penalty, frequency_penalty: taken off once, or once per occurrence (OpenAI API).
    seed: whole number from 0; the same settings and seed give the same ids. banned: never chosen. allowed: nothing
    else is chosen, where it is not empty. Raises UsageError for values outside these.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    banned: tuple[int, ...] = ()
    allowed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        wrong = [name for name, fits in self._fits().items() if not fits]
        if wrong:
            raise UsageError(
                place="sampler settings",
                expected="temperature >= 0, top_k a whole number >= 0, 0 < top_p <= 1, 0 <= min_p <= 1, "
                "repetition_penalty > 0, finite penalties, a whole seed >= 0, ids >= 0, an id that may be chosen",
                found=", ".join(f"{name}={getattr(self, name)!r}" for name in wrong),
                next_step="Correct them.",
            )
        for name in ("banned", "allowed"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))

    def _fits(self) -> dict[str, bool]:
        def number(name: str) -> bool:
            value = getattr(self, name)
            return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

        def whole(value: Any) -> bool:
            return type(value) is int and value >= 0

        return {
            "temperature": number("temperature") and self.temperature >= 0,
            "top_k": whole(self.top_k),
            "top_p": number("top_p") and 0 < self.top_p <= 1,
            "min_p": number("min_p") and 0 <= self.min_p <= 1,
            "repetition_penalty": number("repetition_penalty") and self.repetition_penalty > 0,
            "presence_penalty": number("presence_penalty"),
            "frequency_penalty": number("frequency_penalty"),
            "seed": whole(self.seed),
            "banned": all(map(whole, self.banned)),
            "allowed": all(map(whole, self.allowed)) and not (self.allowed and set(self.allowed) <= set(self.banned)),
        }

    @property
    def greedy(self) -> bool:
        """The largest logit is taken: nothing is drawn."""
        return self.temperature == 0

    def with_seed(self, seed: int) -> Sampling:
        return replace(self, seed=seed)

    def settings(self) -> dict[str, Any]:
        """Every setting but the seed by name, as plain values."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "seed"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def differing(asked: Sampling, stated: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that a runner states otherwise than asked, name to (asked, stated); what it does not state is left out.

    `suppress_tokens` is what model folders call `banned`; ids suppressed besides the banned ones are no difference.
    """
    found = {}
    for name, want in asked.settings().items():
        got = stated.get(name, stated.get("suppress_tokens") if name == "banned" else None)
        if got is None:
            continue
        if name == "banned":
            same = set(want) <= set(got)
        elif name == "allowed":
            same = set(want) == set(got)
        else:
            same = math.isclose(float(want), float(got), rel_tol=1e-6, abs_tol=1e-12)
        if not same:
            found[name] = (want, got)
    return found


def require_ids(sampling: Sampling, vocab: int) -> None:
    """Raise UsageError for banned or allowed ids that a model of `vocab` ids does not have."""
    wrong = [token for token in (*sampling.banned, *sampling.allowed) if token >= vocab]
    if wrong or (len(set(sampling.banned)) >= vocab and not sampling.allowed):
        raise UsageError(
            place="sampler settings",
            expected=f"ids from 0 to {vocab - 1}, and one that may be chosen",
            found=f"id {wrong[0]}" if wrong else "every id banned",
            next_step="Take the ids from this model's own tokenizer.",
        )
