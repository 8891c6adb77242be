"""Is a pattern that holds in some rows, experts or columns only read as its own cause, and placed there?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from parity.fingerprint import causes as C
from parity.fingerprint import read_fingerprints
from tests.fingerprint.plants import Planted, check_cause, chunk, launches, phases, put, rows_of


def swapped_in(lab: Any, *experts: int) -> Any:
    """Gate and up exchanged in some experts."""
    value = lab.tensors["moe.gate"].clone()
    for expert in experts:
        value = put(value, rows_of(lab, expert), lab.tensors["moe.up"][rows_of(lab, expert)])
    related = {"moe.up": lab.tensors["moe.up"], "weight": lab.weights["moe.gate"]}
    return replace(lab.field("moe.gate", value), related=related)


def term_lost(lab: Any, term: str, rows: slice, times: float = 0.0, **more: Any) -> Any:
    """`resid.mid` with one of its terms counted `times` in some rows."""
    value = lab.tensors["resid.mid"].clone()
    value[rows] += (times - 1) * lab.tensors[term][rows]
    return lab.field("resid.mid", value, **more)


def decoded(lab: Any) -> slice:
    """The rows that `phases` decodes."""
    return slice(lab.size.T - 12, None)


def positions(found: Any) -> tuple[int, int] | None:
    return found.slice.positions


T = {
    "residual lost in decode": Planted(
        C.MISSING_RESIDUAL, lambda lab: term_lost(lab, "resid.in", decoded(lab), **phases(lab)),
        lambda lab, f: (f.numbers["term"], f.numbers["times"], f.numbers["phase"], positions(f))
        == ("resid.in", 0, "decode", (lab.size.T - 12, lab.size.T)),
    ),
    "residual added twice in one chunk": Planted(
        C.MISSING_RESIDUAL, lambda lab: term_lost(lab, "resid.in", slice(chunk(lab), 2 * chunk(lab)), 2.0,
                                                  **launches(lab)),
        lambda lab, f: (f.numbers["times"], positions(f)) == (2, (chunk(lab), 2 * chunk(lab))),
    ),
    "residual lost in the last row": Planted(
        C.MISSING_RESIDUAL, lambda lab: term_lost(lab, "resid.in", slice(-1, None)),
        lambda lab, f: positions(f) == (lab.size.T - 1, lab.size.T),
    ),
    "residual at 0.7 from row 40 on": Planted(
        C.MISSING_RESIDUAL, lambda lab: term_lost(lab, "resid.in", slice(40, None), 0.7),
        lambda lab, f: abs(f.numbers["times"] - 0.7) < 0.02 and positions(f) == (40, lab.size.T),
    ),
    "branch lost in all rows but two": Planted(
        C.MISSING_RESIDUAL, lambda lab: term_lost(lab, "attn.out", slice(2, None)),
        lambda lab, f: f.numbers["term"] == "attn.out",
    ),
    "gate and up exchanged in one expert": Planted(
        C.GATE_UP_SWAPPED, lambda lab: swapped_in(lab, 2), lambda lab, f: f.slice.experts == (2,),
    ),
    "gate and up exchanged in the least loaded expert": Planted(
        C.GATE_UP_SWAPPED, lambda lab: swapped_in(lab, lab.size.E - 1),
        lambda lab, f: f.slice.experts == (lab.size.E - 1,),
    ),
    "gate and up exchanged in two experts": Planted(
        C.GATE_UP_SWAPPED, lambda lab: swapped_in(lab, 0, 3), lambda lab, f: f.slice.experts == (0, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, planted in T.items() for size in planted.sizes])
def test_the_planted_cause_comes_first(lab, name, size):
    check_cause(lab(size), T[name])


def test_rows_of_zeros_lack_no_term(lab):
    """A row of zeros is near every small branch: it is unwritten, not short of its residual."""
    one = lab(1)
    value = put(one.tensors["resid.mid"].clone(), slice(50, 60), 0.0)
    assert read_fingerprints(one.field("resid.mid", value))[0].cause == C.ROWS_UNWRITTEN
