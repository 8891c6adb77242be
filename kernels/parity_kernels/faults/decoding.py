"""Tokens that are not what the sampler's settings say, or settings that are not the oracle's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parity.faults import Draw, Fault
from parity.fingerprint.causes import SAMPLER

NEWLINE = 198
"""Id of a newline in the byte-level vocabularies of GPT-2, Qwen and the shipped model; vocabularies of another kind
have some other token there."""


def unmasked(logits: torch.Tensor) -> int:
    """The greedy fast path: argmax of the raw logits; the mask is applied on the sampling path only."""
    return int(logits.argmax())


def banned_token(token: int) -> Fault:
    return Fault(
        name="banned_token_greedy",
        family="qwen3_moe",
        summary="The greedy fast path skips the mask of banned tokens.",
        truth=None,
        rung="decode",
        cause=SAMPLER,
        details={"suppress_tokens": (token,)},
        engine={"suppress_tokens": (token,)},
        sampler=unmasked,
        instances=another_token,
    )


def another_token(seed: int, hyper: Mapping[str, Any]) -> Fault:
    """A ban of a newline, a space or a full stop, in the vocabularies named above."""
    known = [token for token in (NEWLINE, 220, 13) if token < hyper.get("vocab", 1)]
    return banned_token(Draw("banned_token_greedy", seed, hyper).one_of(known or [0]))


def penalty_cliff(penalty: float) -> Fault:
    return Fault(
        name="penalty_cliff",
        family="qwen3_moe",
        summary="A presence penalty is on by default and ends long outputs early.",
        truth=None,
        rung="decode",
        cause=SAMPLER,
        details={"presence_penalty": penalty},
        engine={"presence_penalty": penalty},
        instances=lambda seed, hyper: penalty_cliff(Draw("penalty_cliff", seed, hyper).strength(0.5, 2)),
    )


FAULTS = [banned_token(NEWLINE), penalty_cliff(1.5)]
