"""Which token comes next? The greedy choice under the bans and penalties that an engine instance runs with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parity.errors import ConfigError
from parity.faults import Where, telling


@dataclass(frozen=True)
class Sampling:
    """Greedy settings of one engine instance, reported as they are.

    suppress_tokens: ids never chosen (`suppress_tokens` of generation_config.json, as HF reads it).
    presence_penalty: taken off the logit of each id chosen before, once, whatever its count; ids of the prompt are not
        penalized. Source: OpenAI API reference, `presence_penalty`.
    sampler: a planted fault's choice in place of all this.
    """

    suppress_tokens: tuple[int, ...] = ()
    presence_penalty: float = 0.0
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
        return cls(tuple(dict.fromkeys(banned)), float(settings.get("presence_penalty", 0.0)), sampler)

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, for a trace and for an audit."""
        return {
            "greedy": True,
            "suppress_tokens": list(self.suppress_tokens),
            "presence_penalty": self.presence_penalty,
        }

    def choose(self, logits: torch.Tensor, ids: Sequence[int], *, prompt: int) -> int:
        """The next token after `ids`, of which the first `prompt` were given; logits: [V] fp32. Ties: the lower id."""
        if self.sampler is not None:
            step = len(ids) - prompt
            with telling(Where("sampler", phase="decode", step=step, ids=tuple(ids), prompt=prompt)):
                return int(self.sampler(logits))
        if self.suppress_tokens or (self.presence_penalty and len(ids) > prompt):
            logits = logits.clone()
            if self.presence_penalty:
                logits[sorted(set(ids[prompt:]))] -= self.presence_penalty
            logits[list(self.suppress_tokens)] = float("-inf")
        return int(logits.argmax())


def _wrong(path: Path, expected: str, found: str) -> ConfigError:
    return ConfigError(
        place=str(path), expected=expected, found=found, next_step="Correct the file, or the setting of the instance."
    )
