"""May two traces be compared at all, and which rows of both belong together?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parity.align.rows import Aligned
from parity.errors import TraceError
from parity.records import Run


def pair_requests(*, oracle: Run, sut: Run, same_model_because: str | None = None) -> list[tuple[int, int]]:
    """Requests of both runs that are the same prompt, as pairs of indices, in the oracle's order.

    Token ids come first: two runs of different ids have nothing to say about each other. Then the lineage: checkpoints
    with one root compare, others only with a reason, which the caller keeps on record.
    Raises TraceError with the first difference.
    """
    by_name = {name: index for index, name in enumerate(sut.request_names)}
    if set(by_name) != set(oracle.request_names) or not by_name:
        raise TraceError(
            place="requests of the two traces",
            expected="the same names, at least one",
            found=f"oracle {sorted(oracle.request_names)}, sut {sorted(by_name)}",
            next_step="Capture both runners on the same requests, under the same names.",
        )
    pairs = [(index, by_name[name]) for index, name in enumerate(oracle.request_names)]
    for of_oracle, of_sut in pairs:
        _check_ids(oracle.request_names[of_oracle], oracle.requests[of_oracle], sut.requests[of_sut])
    if oracle.lineage.root != sut.lineage.root and not same_model_because:
        raise TraceError(
            place="lineage of the two traces",
            expected="checkpoints with one root (a BF16 checkpoint and its FP8 or GGUF conversions)",
            found=f"oracle {oracle.model} from root {oracle.lineage.root}, sut {sut.model} from {sut.lineage.root}",
            next_step="If they are the same model all the same, say why in same_model_because; it is recorded.",
        )
    return pairs


def _check_ids(name: str, oracle: tuple[int, ...], sut: tuple[int, ...]) -> None:
    if oracle == sut:
        return
    length = min(len(oracle), len(sut))
    at = next((i for i in range(length) if oracle[i] != sut[i]), length)
    first, last = max(at - 3, 0), at + 4
    raise TraceError(
        place=f"token ids of request {name!r}",
        expected="the same ids on both sides",
        found=(
            f"the first difference at position {at}: oracle {list(oracle[first:last])} and sut {list(sut[first:last])} "
            f"from position {first} on ({len(oracle)} and {len(sut)} ids)"
        ),
        next_step="Compare the prompts first: template, BOS, system text, tokenizer.",
    )


def pair_rows(*, oracle: Aligned, sut: Aligned) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Rows of both that stand at the same absolute position.

    Returns (rows of the oracle, rows of the SUT, how many rows of either have no counterpart).
    """
    shared, of_oracle, of_sut = np.intersect1d(oracle.position, sut.position, assume_unique=True, return_indices=True)
    return of_oracle, of_sut, len(oracle.position) + len(sut.position) - 2 * len(shared)
