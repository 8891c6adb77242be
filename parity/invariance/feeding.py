"""Does it matter how a request is fed: in chunks, beside others, in another slot, token by token, with padding?"""

from __future__ import annotations

from parity.invariance.differ import agree
from parity.invariance.judging import judge
from parity.invariance.record import Invariance, not_run
from parity.invariance.subject import Subject, other_request
from parity.runner import Request, Schedule
from parity.trace import Trace

PADDING = 37
"""Cache positions too many: odd, so that no stride stays a multiple of a tile."""

DECODE_STEPS = 3


def check_chunks(subject: Subject) -> Invariance:
    """Chunk size: the prompt in three prefill chunks against all at once."""
    turn = "the prompt fed in three chunks"
    missing = subject.lacks("chunk")
    if missing:
        return not_run("chunks", turn, missing)
    base = subject.base(subject.brief)
    size = -(-len(subject.brief.ids) // 3)
    parts = subject.forward(f"chunks of {size}", [subject.brief], schedule=Schedule(chunk=size))
    seen = len({capture.chunk for capture in parts.captures if capture.phase == "prefill"})
    if seen < 2:
        return not_run("chunks", turn, f"The trace shows {seen} chunk: the prompt was not cut.")
    evidence = {"chunks_seen": seen, "chunk": size}
    return judge("chunks", subject, base=base, turned=parts, turn=turn, evidence=evidence)


def check_batch(subject: Subject) -> Invariance:
    """Batch size and slot: the prompt packed between two others, in another cache slot, against alone in slot 0."""
    turn = "packed with two other requests, in another cache slot"
    base = subject.base(subject.brief)
    ours = subject.brief
    first = Request("before", other_request(ours).ids[: len(ours.ids) // 4])
    last = Request("behind", other_request(ours).ids[: len(ours.ids) // 2])
    slots = (3, 1, 4) if "slots" in subject.info.can else ()
    batch = subject.forward("packed with two others", [first, ours, last], schedule=Schedule(slots=slots))
    packed = max((len(set(capture.rows.request.tolist())) for capture in batch.captures), default=0)
    if packed < 2:
        return not_run(
            "batch", turn, f"Runner {subject.info.name} feeds requests one by one: no step held two of them."
        )
    evidence = {"requests_in_a_step": packed, "slots": slots or (0, 1, 2), "slot_of_ours": slots[1] if slots else 1}
    return judge(
        "batch", subject, base=base, turned=batch, turn=turn, evidence=evidence, requests=[(ours.name, ours.name)]
    )


def check_decode(subject: Subject) -> Invariance:
    """Prefill against decode: the last ids fed one by one against all in the prefill, the same tokens."""
    turn = f"the last {DECODE_STEPS} tokens fed as decode steps"
    base = subject.base(subject.brief)
    steps = subject.forward(f"{DECODE_STEPS} decode steps", [subject.brief], schedule=Schedule(decode=DECODE_STEPS))
    seen = len({capture.step for capture in steps.captures if capture.phase == "decode"})
    if not seen:
        return not_run("decode", turn, "The trace shows no decode step.")
    return judge("decode", subject, base=base, turned=steps, turn=turn, evidence={"decode_steps_seen": seen})


def check_padding(subject: Subject) -> Invariance:
    """Padding: cache slots and positions that no request fills, and a request of nothing but one token beside ours."""
    turn = f"{PADDING} cache positions and a slot too many, and rows of padding in the step"
    missing = subject.lacks("padding")
    if missing:
        return not_run("padding", turn, missing)
    base, ours = subject.base(subject.brief), subject.brief
    rows = Request("padding", (0,) * (-len(ours.ids) % 64 or 64))
    padded = subject.forward("padded", [ours, rows], schedule=Schedule(padding=PADDING))
    evidence = {"padding": padded.run.flags.get("padding", 0), "rows_of_padding": _rows_of(padded, 1)}
    return judge(
        "padding", subject, base=base, turned=padded, turn=turn, evidence=evidence, requests=[(ours.name, ours.name)]
    )


def check_causality(subject: Subject) -> Invariance:
    """Causality: other tokens in the last third must not change a row before them."""
    turn = "the last third of the tokens exchanged"
    base, ids = subject.base(subject.brief), subject.brief.ids
    cut = len(ids) - len(ids) // 3
    # Each later token by the one before it in the prompt's first third, or by 0 or 1 where that is the same.
    later = [ids[at % cut] if ids[at % cut] != ids[at] else int(ids[at] == 0) for at in range(cut, len(ids))]
    ours = Request(subject.brief.name, (*ids[:cut], *later))
    turned = subject.forward("other tokens behind", [ours])
    name = [(ours.name, ours.name)]
    changed = agree(
        base, turned, requests=name, keep=lambda p: p >= cut, skip=lambda _, stage: stage != "embed.out"
    ).first
    evidence = {"tokens_exchanged": len(later), "rows_exchanged": changed.rows if changed else 0, "from_position": cut}
    return judge(
        "causality", subject, base=base, turned=turned, turn=turn, evidence=evidence, requests=name,
        keep=lambda position: position < cut,
    )  # fmt: skip


def _rows_of(trace: Trace, request: int) -> int:
    """Token rows of a request in the widest step."""
    rows = [capture.rows for capture in trace.captures if capture.rows.slot is None]
    return max((int((one.request == request).sum()) for one in rows), default=0)
