"""Does the size of the residual stream reach the logits? The falsification of "the residual has grown too large"."""

from __future__ import annotations

import torch

from parity.align import align
from parity.invariance.judging import rounding_bound
from parity.invariance.record import Invariance, Outcome, not_run
from parity.invariance.rules import unit
from parity.invariance.subject import Subject
from parity.records import Site, Slice
from parity.runner import Graft

FACTOR = 1 / 100


def check_norm_scale(subject: Subject) -> Invariance:
    """Scale invariance of the final norm: the last residual X, and X / 100, through the same final norm and head.

    RMSNorm divides the scale out, but for eps: row for row the norm's length may change by
    sqrt((ms + eps) / (ms + eps / s^2)), ms the mean square of X and s the factor; nothing else may change but by the
    rounding of X / 100.
    """
    turn = "the last residual divided by 100"
    missing = subject.lacks("graft")
    base = subject.base(subject.brief)
    last = base.run.layers - 1
    captures = base.select(stage="resid.out", layer=last)
    if missing or not captures or not base.select(stage="final_norm") or not base.select(stage="logits"):
        return not_run("norm_scale", turn, missing or "The runner does not show resid.out, final_norm and logits.")
    grafts = [
        Graft(last, "resid.out", (base.tensor(c).double() * FACTOR).to(base.tensor(c).dtype), c.rows) for c in captures
    ]
    scaled = subject.forward("the last residual / 100", [subject.brief], graft=grafts)
    x, small = _of(base, "resid.out", last), _of(scaled, "resid.out", last)
    normed, normed_small = _of(base, "final_norm", None), _of(scaled, "final_norm", None)
    logits, logits_small = _of(base, "logits", None), _of(scaled, "logits", None)
    ratio = float((small.norm() / x.norm()).item())
    eps = float(subject.info.hyper.get("rms_eps", 0.0))
    mean, mean_small = x.square().mean(1), small.square().mean(1)
    # As the norm sees them: the rounding of X / 100 is in `small`.
    allowed = torch.sqrt(mean_small / (mean_small + eps)) / torch.sqrt(mean / (mean + eps))
    length = (normed_small.norm(dim=1) / normed.norm(dim=1)) / allowed
    angle = torch.nn.functional.cosine_similarity(normed, normed_small, dim=1)
    # X / 100 and both norms are each rounded once, u relative: rows at most 3 u apart, and the cosine of a small angle.
    dtype = base.tensor(captures[0]).dtype
    apart = 3 * unit(dtype) + rounding_bound(subject.info)("final_norm", dtype)
    bad = ((length - 1).abs() > apart) | (angle < 1 - apart**2 / 2)
    best, best_small = logits.argmax(1), logits_small.argmax(1)
    cosine = torch.nn.functional.cosine_similarity(logits, logits_small, dim=1)
    numbers = {
        "final_norm_length_ratio": float(length[(length - 1).abs().argmax()]),
        "final_norm_cosine": float(angle.min()),
        "logits_cosine": float(cosine.min()),
        "argmax_last": (int(best[-1]), int(best_small[-1])),
        "argmax_agreement": float((best == best_small).double().mean()),
        # What eps alone leaves of a row's length: near 0 a norm cannot be told from none.
        "allowed_length_least": float(allowed.min()),
        "rows": len(best),
    }
    evidence = {"residual_norm_ratio": ratio, "rows": len(best)}
    both = (
        f"argmax of the last row {int(best[-1])} and {int(best_small[-1])}, equal in "
        f"{numbers['argmax_agreement']:.0%} of {len(best)} rows; cosine of the logits at least "
        f"{float(cosine.min()):.6f}"
    )
    basis = f"bound of rounding, {apart:.2g}"
    if bad.any():
        at = torch.nonzero(bad).flatten().tolist()
        site = Site((), "final_norm", Slice(rows=tuple(at), positions=(min(at), max(at) + 1)))
        sentence = (
            f"Broken at final_norm: {len(at)} of {len(best)} rows change with the residual's scale, "
            f"length by {numbers['final_norm_length_ratio']:.4g}; {both}."
        )
        return Invariance("norm_scale", Outcome.BROKEN, turn, sentence, evidence, basis, site, numbers)
    sentence = f"Held: X and X / 100 give the same logits: {both}. Growth of the residual does not compress the logits."
    return Invariance("norm_scale", Outcome.HELD, turn, sentence, evidence, basis, None, numbers)


def _of(trace, stage: str, layer: int | None) -> torch.Tensor:
    one = align(trace, stage, layer, 0)
    assert one is not None  # looked for before
    return one.tensor.double()
