"""May two traces be compared at all, and which rows of both belong together?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.align.rows import Aligned
from parity.errors import TraceError
from parity.records import Run, site_name


def pair_requests(
    *, oracle: Run, sut: Run, same_model_because: str | None = None, allow_grafts: bool = False
) -> list[tuple[int, int]]:
    """Requests of both runs that are the same prompt, as pairs of indices, in the oracle's order.

    Token ids come first: two runs of different ids have nothing to say about each other. Then the lineage: checkpoints
    one root compare, others only with a reason, which the caller keeps on record; so do runs of two families. A run in
    which tensors were replaced is no evidence about its engine, and models of another depth are other models: neither
    is compared, whatever the reason; allow_grafts: the caller put the grafts there and knows what they mean.
    Raises TraceError with the first difference.
    """
    by_name = {name: index for index, name in enumerate(sut.request_names)}
    if len(by_name) != len(sut.request_names) or sorted(oracle.request_names) != sorted(by_name) or not by_name:
        raise TraceError(
            place="requests of the two traces",
            expected="the same names, at least one, each once",
            found=f"oracle {_few(oracle.request_names)}, sut {_few(sut.request_names)}",
            next_step="Capture both runners on the same requests, under the same names.",
        )
    pairs = [(index, by_name[name]) for index, name in enumerate(oracle.request_names)]
    for of_oracle, of_sut in pairs:
        _check_ids(oracle.request_names[of_oracle], oracle.requests[of_oracle], sut.requests[of_sut])
    for side, run in (("oracle", oracle), ("SUT", sut)):
        if not allow_grafts:
            _refuse_grafts(side, run)
    if oracle.layers != sut.layers:
        raise TraceError(
            place="layers of the two models",
            expected="as many on both sides",
            found=f"oracle {oracle.model} with {oracle.layers}, sut {sut.model} with {sut.layers}",
            next_step="Capture both sides of one model; a run of some layers still states how many the model has.",
        )
    if oracle.family != sut.family and not same_model_because:
        raise TraceError(
            place="family of the two traces",
            expected="one stage graph on both sides",
            found=f"oracle {oracle.model} of {oracle.family!r}, sut {sut.model} of {sut.family!r}",
            next_step="If stages of one name mean the same in both, say why in same_model_because; it is recorded.",
        )
    if oracle.lineage.root != sut.lineage.root and not same_model_because:
        raise TraceError(
            place="lineage of the two traces",
            expected="checkpoints with one root (a BF16 checkpoint and its FP8 or GGUF conversions)",
            found=f"oracle {oracle.model} from root {oracle.lineage.root}, sut {sut.model} from {sut.lineage.root}",
            next_step="If they are the same model all the same, say why in same_model_because; it is recorded.",
        )
    return pairs


def _few(names: tuple[str, ...]) -> str:
    told = sorted(name if len(name) <= 60 else f"{name[:57]}..." for name in names)
    return str(told) if len(told) <= 8 else f"{told[:8]} and {len(told) - 8} more"


def _refuse_grafts(side: str, run: Run) -> None:
    grafts = run.flags.get("grafts")
    if not grafts:
        return
    told = ", ".join(_site_words(site) for site in grafts[:5]) if isinstance(grafts, (list, tuple)) else repr(grafts)
    more = f" and {len(grafts) - 5} more" if isinstance(grafts, (list, tuple)) and len(grafts) > 5 else ""
    raise TraceError(
        place=f"flags.grafts of the {side}'s run",
        expected="a run in which the engine computed every tensor itself",
        found=f"tensors replaced at {told[:200]}{more}",
        next_step="Capture the engine again without grafts: from a grafted stage on, nothing is its own work.",
    )


def _site_words(site: Any) -> str:
    if isinstance(site, (list, tuple)) and len(site) == 2 and isinstance(site[1], str):
        return site_name(site[0], site[1]) if site[0] is None or type(site[0]) is int else site[1]
    return str(site)


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
