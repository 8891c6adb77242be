"""Which clean runs cover what a floor will be asked? Documents, lengths, chunkings, decode steps and orders, mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from parity.errors import UsageError
from parity.ladder.calibrate import CleanRun
from parity.runner import Request, Schedule

STRICT_ORDERS = (0, 1, 2, 3, 6, 7, 8, 9)
"""Orders of the emulation within the letter of a specification, those of a GPU's matrix units and those that round
after every operation among them."""

SHORTEST = 8
_TRIES = 50
CHUNKS = (None, 16, 48, 128, 384, 512)
DECODES = (0, 0, 1, 2, 5, 8, 17, 33)
"""Half of the runs or more decode: the sizes of a decode phase are the numbers of its steps."""


def plan_runs(
    documents: Mapping[str, Sequence[int]],
    *,
    runs: int,
    longest: int,
    orders: Sequence[int] = STRICT_ORDERS,
    shortest: int = SHORTEST,
    seed: int = 0,
) -> list[CleanRun]:
    """Clean runs over the documents in turn, each a window of its document.

    documents: token ids by name. shortest, longest: positions; lengths are spread evenly over the logarithm between
    them, every range of sizes alike. Chunkings, decode steps and orders take turns with periods that share no factor
    with one another where they can, so that they mix. Deterministic in `seed`.
    No two runs are the same. Raises UsageError when no document is as long as the shortest prompt, or when the
    documents do not have that many different windows.
    """
    usable = {name: ids for name, ids in documents.items() if len(ids) >= shortest}
    if not usable or longest < shortest:
        raise UsageError(
            place="clean runs for a floor",
            expected=f"documents of at least {shortest} tokens, and a longest prompt of as many",
            found=f"{len(documents)} documents, the longest of {max(map(len, documents.values()), default=0)} tokens",
            next_step="Give longer documents: a floor covers positions that its clean runs reach, and no others.",
        )
    random = np.random.default_rng(seed)
    names = sorted(usable)
    # A low-discrepancy sequence: any few runs in a row spread over all lengths.
    shares = (np.arange(runs) * 0.6180339887498949 + random.random()) % 1.0
    planned: dict[str, CleanRun] = {}
    for number, share in enumerate(shares.tolist()):
        length = round(shortest * (longest / shortest) ** share)
        # The next document that is long enough, in turn; the longest of all where none is.
        turn = names[number % len(names) :] + names[: number % len(names)]
        name = next((one for one in turn if len(usable[one]) >= length), max(names, key=lambda one: len(usable[one])))
        run = _window(name, usable[name], length, orders[number % len(orders)], random)
        for _ in range(_TRIES):
            if run.name not in planned:
                break
            run = _window(name, usable[name], max(length - int(random.integers(1, 8)), shortest), run.order, random)
        planned[run.name] = run
    if len(planned) < runs:
        raise UsageError(
            place="clean runs for a floor",
            expected=f"documents with {runs} different windows",
            found=f"{len(planned)} of {len(usable)} documents",
            next_step="Give more or longer documents, or ask for fewer runs.",
        )
    return list(planned.values())


def _window(name: str, ids: Sequence[int], length: int, order: int, random: np.random.Generator) -> CleanRun:
    """A clean run over a window of that length, or the whole document; start, chunking and decode steps at random."""
    length = min(length, len(ids))
    start = int(random.integers(0, len(ids) - length + 1))
    decode = int(random.choice(DECODES))
    schedule = Schedule(chunk=CHUNKS[int(random.integers(len(CHUNKS)))], decode=decode if decode <= length // 2 else 0)
    return CleanRun(Request(f"{name}@{start}+{length}", tuple(ids[start : start + length])), name, order, schedule)


def split_documents(names: Sequence[str], *, heldout: float) -> tuple[list[str], list[str]]:
    """Documents for calibration, and for counting false alarms: every k-th by name, k = 1 / heldout.

    Raises UsageError when a side would be empty.
    """
    ordered = sorted(names)
    period = round(1 / heldout) if 0 < heldout <= 0.5 else 0
    apart = ordered[period - 1 :: period] if period else []
    if not apart or len(apart) == len(ordered):
        raise UsageError(
            place="split of documents",
            expected="a held-out share above 0 and at most 0.5, and documents enough for both sides",
            found=f"share {heldout} of {len(ordered)} documents",
            next_step="Give more documents, or a larger share.",
        )
    return [name for name in ordered if name not in set(apart)], apart
