"""YaRN is hard-coded although the config has no rope scaling: low-frequency pairs turn `factor` times too slowly."""

from __future__ import annotations

import math
from typing import Any

import torch

from parity.faults import Draw, Fault
from parity.fingerprint.causes import ROPE_SCALING
from parity.records import Site

BETA_FAST, BETA_SLOW = 32, 1
ORIGINAL = 512
"""Hard-coded like the rest: positions of the context that the scaling is said to start from."""


def yarn_frequencies(inv_freq: torch.Tensor, *, factor: float, original: int) -> torch.Tensor:
    """inv_freq [K/2] fp32 as YaRN rescales it, without its attention temperature.

    original: positions of the training context. Pairs that turn more than 32 times in it keep their frequency, those
    that turn less than once are divided by `factor`, linearly in the pair's number between.
    Source: Peng et al. 2023, arXiv 2309.00071, section 3.2 (alpha 1, beta 32); the ramp as in HF's
    `_compute_yarn_parameters`.
    """
    turns = original * inv_freq.double() / (2 * math.pi)
    first = int((turns > BETA_FAST).sum()) - 1  # the last pair left alone
    last = int((turns >= BETA_SLOW).sum())  # the first pair fully divided
    pair = torch.arange(len(inv_freq), device=inv_freq.device, dtype=torch.float64)
    share = ((pair - max(first, 0)) / max(last - max(first, 0), 0.001)).clamp(0, 1)
    return (inv_freq.double() * (1 - share) + inv_freq.double() / factor * share).to(inv_freq.dtype)


def yarn_forced(factor: float) -> Fault:
    """The fault with that factor; the engine reports the scaling that it uses."""
    scaling = {
        "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": ORIGINAL,
        "beta_fast": BETA_FAST, "beta_slow": BETA_SLOW, "attention_factor": 1.0,
    }  # fmt: skip

    def wrap(op: Any) -> Any:
        def rescaled(q: Any, k: Any, q_weight: Any, k_weight: Any, positions: Any, inv_freq: Any, **rest: Any) -> Any:
            inv_freq = yarn_frequencies(inv_freq, factor=factor, original=ORIGINAL)
            return op(q, k, q_weight, k_weight, positions, inv_freq, **rest)

        return rescaled

    return Fault(
        name="rope_yarn_forced",
        family="qwen3_moe",
        summary="YaRN is hard-coded although the config's rope_scaling is null.",
        truth=Site((), "attn.q_rope"),
        also=(Site((), "attn.k_rope"),),
        rung="config",
        cause=ROPE_SCALING,
        details={"key": "rope_scaling", "factor": factor},
        config={"rope_scaling": scaling},
        op="qk_norm_rope",
        wrap=wrap,
        instances=lambda seed, hyper: yarn_forced(Draw("rope_yarn_forced", seed, hyper).strength(4, 64)),
    )


FAULTS = [yarn_forced(64.0)]
