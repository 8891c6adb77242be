"""Why were other experts chosen, or other weights given? Near-ties, ids of other logits, weights not renormalized."""

from __future__ import annotations

import numpy as np
import torch

from parity.align import route
from parity.fingerprint.causes import (
    GATE_TRANSFORM,
    ROUTER_NEAR_TIE,
    ROUTER_WRONG_IDS,
    SOFTMAX_SCALE,
    WEIGHTS_NOT_NORMALIZED,
)
from parity.fingerprint.evidence import LEAST_SHARE, percent, reads_values, share_after
from parity.fingerprint.field import ErrorField
from parity.fingerprint.record import Fingerprint
from parity.records import Slice

BF16_STEP = 2.0**-7
"""Relative distance of neighbouring bf16 numbers. Of logits that are not the ones chosen from, and without a floor, a
margin of one such step of the row's largest logit counts as a tie: two logits, each half a step off."""

TIED_STEPS = 8.0
"""Units of fp32's eps, of the row's largest logit or of 1, by which two shares of a softmax may come out in the order
that their logits do not have. A share is exponential, sum and quotient of a logit less the maximum: 2.5 units of 1 and
1 of the largest (the difference is up to twice that, rounded by half a unit) on either side, 7 between the two. A
router that compares in fp32 what it computed is within that; one whose keys are coarser chooses experts that its logits
do not give."""

TEMPERATURE = "softmax over the chosen experts, at another temperature"

TRANSFORMS = {
    "sigmoid of each logit": torch.sigmoid,
    "softplus of each logit": torch.nn.functional.softplus,
    "the root of softplus of each logit": lambda scores: torch.nn.functional.softplus(scores).sqrt(),
    "the logits themselves": lambda scores: scores,
}
"""What routers apply in place of a softmax over the experts; each is tried as it is and renormalized."""

FITTED_MORE = 0.02
"""Share by which a temperature, which is fitted, must explain more than what has no number to fit (`read.TIE`)."""


def detect_router(field: ErrorField) -> Fingerprint | None:
    """Read flips of `moe.topk_ids` against the logits that they were chosen from.

    Logits: the input `moe.router_logits`, else the related one. A flip is a near-tie when its margin (what the logits
    would have to move) is at most what rounding explains. The SUT chose from its own logits, the input: of these it is
    the rounding of a comparison (TIED_STEPS), and that of the logits where they are shown narrower than fp32. Of others
    it is the noise of the row: `field.noise`, or one step of bf16, times its largest logit.
    score: the share of flipped tokens of the kind named, which is the more frequent one. Near-ties of the SUT's own
    logits are no error at all: where there are other flips, only these are to be explained, and all of them are.
    """
    if not field.ids or field.stage != "moe.topk_ids" or not field.tokens:
        return None
    own = field.inputs.get("moe.router_logits")
    logits = field.related.get("moe.router_logits") if own is None else own
    known = logits is not None and logits.ndim == 2 and len(logits) == field.tokens
    scores = logits.detach().to("cpu", torch.float64).numpy() if known and logits is not None else None
    ids = [t.detach().cpu().numpy() for t in (field.oracle, field.sut)]
    routing = route(oracle_ids=ids[0], sut_ids=ids[1], router_logits=scores)
    flipped = routing.flipped
    if not flipped.any():
        return None
    experts = int(scores.shape[1]) if scores is not None else int(max(i.max() for i in ids)) + 1
    overlap, chance = float(routing.overlap.mean()), routing.top_k**2 / max(experts, 1)
    numbers = {
        "flipped_tokens": int(flipped.sum()),
        "tokens": field.tokens,
        "mean_overlap": overlap,
        "overlap_by_chance": chance,
        "top_k": routing.top_k,
    }
    if scores is None:
        return None if overlap > (routing.top_k + chance) / 2 else _wrong(field, 1.0, numbers, np.flatnonzero(flipped))
    largest = np.nan_to_num(np.abs(scores[flipped]), nan=0.0, posinf=0.0, neginf=0.0).max(1)
    margin = routing.margin[flipped]
    if own is None:
        limit = (BF16_STEP if field.noise is None else field.noise) * largest
    else:
        fine = torch.finfo(torch.float32).eps
        shown = torch.finfo(own.dtype).eps if own.is_floating_point() else 0.0
        limit = TIED_STEPS * fine * np.maximum(largest, 1.0) + (shown if shown > fine else 0.0) * largest
    near = margin <= limit
    numbers |= {"near_ties": int(near.sum()), "largest_margin": float(np.nanmax(margin, initial=0.0))}
    share = float(near.mean())
    if share < (1.0 if own is not None else LEAST_SHARE):
        return _wrong(field, 1 - share if own is None else 1.0, numbers, np.flatnonzero(flipped)[~near])
    sentence = (
        f"{flipped.sum()} of {field.tokens} tokens chose other experts, {near.sum()} of them where "
        f"the logits lie within "
        f"the noise of each other (largest margin {numbers['largest_margin']:.3g}): a flip of "
        f"near-ties, no fault of the "
        "router's own."
    )
    return Fingerprint(ROUTER_NEAR_TIE, share, numbers, sentence, Slice())


def _wrong(field: ErrorField, score: float, numbers: dict, tokens: np.ndarray) -> Fingerprint:
    at = field.row_position[tokens]
    sentence = (
        f"{len(tokens)} of {field.tokens} tokens have experts that their logits do not give: "
        f"{numbers['mean_overlap']:.2f}"
        f" of {numbers['top_k']} experts in common on average, {numbers['overlap_by_chance']:.2f} by chance."
    )
    return Fingerprint(ROUTER_WRONG_IDS, score, numbers, sentence, Slice(positions=(int(at.min()), int(at.max()) + 1)))


@reads_values
def detect_routing_weights(field: ErrorField) -> Fingerprint | None:
    """Find weights of `moe.topk_weights` normalized over other experts than the oracle's, at another temperature, or by
    another function than a softmax. score: the share explained.

    Needs the inputs moe.router_logits [T, E] and moe.topk_ids [T, S].
    """
    logits, ids = field.inputs.get("moe.router_logits"), field.inputs.get("moe.topk_ids")
    if field.stage != "moe.topk_weights" or logits is None or ids is None or ids.shape != field.sut.shape:
        return None
    chosen = ids.detach().cpu().long().clamp(0, max(logits.shape[1] - 1, 0))
    scores = torch.nan_to_num(logits.detach().to("cpu", torch.float32), 0.0, 0.0, 0.0)
    ways = {
        "softmax over all experts, not renormalized": scores.softmax(1).gather(1, chosen),
        "softmax over the chosen experts": scores.gather(1, chosen).softmax(1),
    }
    for name, function in TRANSFORMS.items():
        ways[name] = function(scores).gather(1, chosen)
        total = ways[name].sum(1, keepdim=True)
        ways[f"{name}, renormalized"] = ways[name] / torch.where(total.abs() > 1e-20, total, 1.0)
    weights, spread = field.x.clamp(min=1e-12).log(), scores.gather(1, chosen)
    weights, spread = weights - weights.mean(1, keepdim=True), spread - spread.mean(1, keepdim=True)
    temperature = float((spread.square().sum() / (weights * spread).sum().clamp(min=1e-12)).nan_to_num(1.0))
    if 0.01 < temperature < 100:
        ways[TEMPERATURE] = (scores.gather(1, chosen) / temperature).softmax(1)
    explained = {name: share_after(field, value.reshape(field.x.shape)) for name, value in ways.items()}
    best = max(explained, key=lambda name: explained[name] - FITTED_MORE * (name == TEMPERATURE))
    if not explained[best] > LEAST_SHARE:
        return None
    numbers = {
        "weights_are": best,
        "explained": explained,
        "mean_sum": float(field.x.view(field.tokens, -1).sum(1).mean()),
        "oracle_mean_sum": float(field.y.view(field.tokens, -1).sum(1).mean()),
    }
    sentence = (
        f"The weights are {best} ({numbers['mean_sum']:.3g} a token where the oracle's sum to "
        f"{numbers['oracle_mean_sum']:.3g}): {percent(explained[best])} of the error."
    )
    if best == TEMPERATURE:
        numbers["temperature"] = temperature
        sentence = (
            f"The weights are a softmax of the logits over {temperature:.4g}: {percent(explained[best])} of the error."
        )
        return Fingerprint(SOFTMAX_SCALE, explained[best], numbers, sentence, Slice())
    cause = GATE_TRANSFORM if best.partition(", ")[0] in TRANSFORMS else WEIGHTS_NOT_NORMALIZED
    return Fingerprint(cause, explained[best], numbers, sentence, Slice())
