"""Does the same request give the same bits again: at once, after another request, in poisoned memory, unobserved?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from parity.invariance.differ import Difference, agree
from parity.invariance.judging import broken, judge
from parity.invariance.record import Invariance, Outcome, not_run
from parity.invariance.subject import Subject, other_request
from parity.records import Site, Slice
from parity.runner import Graft, Schedule
from parity.trace import Trace

NAN_BYTE = 0xFF
"""In every byte: NaN in bf16, fp16, fp32 and E4M3."""

LARGE_BYTE = 0x7E
"""In every byte: finite and large in all of them (bf16 and fp32 8.4e37, fp16 4e4 as NaN's neighbour, E4M3 448)."""


def check_repeat(subject: Subject) -> Invariance:
    """Run to run: the brief prompt twice in a row. Nondeterminism, and state that a run leaves behind."""
    turn = "the same request run twice in a row"
    base = subject.base(subject.brief)
    again = subject.forward("the same again", [subject.brief])
    evidence = {"runs": 2, "captures_each": min(len(base.captures), len(again.captures))}
    return judge("repeat", subject, base=base, turned=again, turn=turn, evidence=evidence)


def check_history(subject: Subject) -> Invariance:
    """History: the long prompt, then another one, then the first again. What is left of a request must not be seen."""
    turn = "another request run in between"
    base = subject.base(subject.request)
    between, seen = subject.between()
    again = subject.again = subject.forward("the first request again", [subject.request])
    same = agree(
        base, seen, requests=[(subject.request.name, between.name)], skip=lambda _, stage: stage != "embed.out"
    )
    evidence = {"tokens_between": len(between.ids), "rows_other_than_ours": same.first.rows if same.first else 0}
    return judge("history", subject, base=base, turned=again, turn=turn, evidence=evidence)


def check_poison(subject: Subject) -> Invariance:
    """Poisoned memory: whatever a kernel may write holds NaN before every launch, then a large finite value.

    All of an output must be written and nothing else read: both runs, and the plain one, must have the same bits.
    """
    turn = f"all memory filled before each launch, with bytes {NAN_BYTE:#x} (NaN) and {LARGE_BYTE:#x} (large, finite)"
    missing = subject.lacks("poison")
    if missing:
        return not_run("poison", turn, missing)
    base = subject.base(subject.request)

    def run(pattern: int, graft: Sequence[Graft] = ()) -> Trace:
        what = f"memory filled with {pattern:#x}" + (", each layer by itself" if graft else "")
        return subject.forward(what, [subject.request], schedule=Schedule(poison=pattern), graft=graft)

    nan, large = run(NAN_BYTE), run(LARGE_BYTE)
    filled = {f"{p:#x}": t.run.flags.get("poisoned_bytes", 0) for p, t in ((NAN_BYTE, nan), (LARGE_BYTE, large))}
    if not all(filled.values()):
        return not_run("poison", turn, f"The runner reports no memory that it filled: {filled}.")
    evidence = {"poisoned_bytes": filled}

    def layers(stage: str) -> list[Difference]:
        anchors = subject.anchors(base, ("resid.mid", "resid.out"))
        if not anchors:
            return []
        return [one for one in agree(base, run(NAN_BYTE, anchors)).differences if one.stage == stage]

    between = agree(nan, large)
    if between.first is not None:
        numbers = {"sites": between.sites, "rows": between.rows, "worst_rel_l2": between.worst}
        numbers["unwritten_rows"] = _rows_of_pattern(large, between.first.layer, between.first.stage)
        return broken("poison", turn, evidence, "promised bits", between, numbers, layers)
    return judge("poison", subject, base=base, turned=nan, turn=turn, evidence=evidence, layers=layers)


def _rows_of_pattern(trace: Trace, layer: int | None, stage: str) -> int:
    """Rows of a site that hold the pattern and nothing else after their launch: no kernel wrote them."""
    captured = [trace.tensor(capture) for capture in trace.select(stage=stage, layer=layer)]
    rows = [tensor.reshape(tensor.shape[0], -1).contiguous().view(torch.uint8) for tensor in captured if tensor.numel()]
    return sum(int((row == LARGE_BYTE).all(1).sum()) for row in rows)


def check_probes(subject: Subject) -> Invariance:
    """Probes on and off: logits of a run without any probe against one with all of them.

    Where what a request leaves behind shows without a probe as well, the two differ by what memory held before each of
    them: that is history's to say, and the probes are not judged.
    """
    turn = "all probes on, against none"
    plain = getattr(subject.runner, "logits", None)
    if not callable(plain):
        why = f"runner {subject.info.name} has no `logits(requests)` that computes them without a probe."
        return not_run("probes", turn, why)
    base = subject.base(subject.brief)
    captures = base.select(stage="logits")
    if not captures:
        return not_run("probes", turn, "The runner shows no logits.")
    on = torch.cat([base.tensor(capture) for capture in captures]).cpu()
    off = plain([subject.brief])
    assert isinstance(off, torch.Tensor)
    off = off.cpu().to(on.dtype)
    numbers = {"rows": len(on), "sites": 1}
    evidence = {"probes": len(base.captures), "rows": len(on)}
    promised = subject.info.promises.get("probes") == 0
    basis = "promised bits" if promised else "same bits"
    here = Site((), "logits")
    if on.shape != off.shape:
        sentence = f"Broken: {list(on.shape)} logits with probes, {list(off.shape)} without."
        return Invariance("probes", Outcome.BROKEN, turn, sentence, evidence, basis, here, numbers)
    rows = _rows_that_differ(on, off)
    if not rows.any():
        sentence = f"Held: {len(on)} rows of logits have the same bits with and without probes."
        return Invariance("probes", Outcome.HELD, turn, sentence, evidence, basis, None, numbers)
    at = torch.nonzero(rows).flatten().tolist()
    numbers |= {
        "rows_that_differ": len(at),
        "rel_l2": float(((on - off).double().norm(dim=1) / off.double().norm(dim=1))[rows].max()),
    }
    here = Site((), "logits", Slice(rows=tuple(at), positions=(at[0], at[-1] + 1)))
    left = _rows_moved_by_another(plain, subject, off) if promised else 0
    if left:
        sentence = f"Not judged: unobserved too, {left} rows have other bits once another request ran in between."
        numbers["rows_moved_by_another_request"] = left
        return Invariance("probes", Outcome.UNJUDGED, turn, sentence, evidence, "", here, numbers)
    if promised:
        sentence = f"Broken at logits: {len(at)} of {len(on)} rows have other bits when probes are on, first {at[0]}."
        return Invariance("probes", Outcome.BROKEN, turn, sentence, evidence, basis, here, numbers)
    sentence = f"Not judged: no bits are promised, and {len(at)} of {len(on)} rows of the logits differ."
    return Invariance("probes", Outcome.UNJUDGED, turn, sentence, evidence, "", here, numbers)


def _rows_moved_by_another(plain: Callable[..., Any], subject: Subject, off: torch.Tensor) -> int:
    """Rows of the brief prompt's logits without probes that have other bits after another request, a longer one if
    there is one: it writes what no run of the brief prompt's length may write."""
    plain([other_request(subject.request)])
    again = plain([subject.brief]).cpu().to(off.dtype)
    return int(_rows_that_differ(again, off).sum())


def _rows_that_differ(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """[T] of [T, V]: rows with other numbers; NaN beside NaN is the same."""
    return ((one != other) & ~(one.isnan() & other.isnan())).any(1)
