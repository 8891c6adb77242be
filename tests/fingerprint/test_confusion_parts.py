"""Is a pattern that holds in some rows, experts or columns only read as its own cause, and placed there?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from parity.fingerprint import ErrorField, read_fingerprints
from parity.fingerprint import causes as C
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


def copied(lab: Any, stage: str, rows: list[int], by: int, **more: Any) -> Any:
    """Some rows are a copy of the row `by` before them, which stays where it is."""
    value = lab.tensors[stage].clone()
    value[rows] = lab.tensors[stage][[row - by for row in rows]]
    return lab.field(stage, value, **more)


def tail_rolled(lab: Any, stage: str, count: int, by: int) -> Any:
    """The last rows are rolled among themselves."""
    value = lab.tensors[stage].clone()
    value[-count:] = value[-count:].roll(by, 0)
    return lab.field(stage, value)


def row_of_each_tile(lab: Any, stage: str, tile: int, row: int) -> Any:
    """Row `row` of each tile of each expert's rows is a copy of the row before it."""
    value, ids = lab.tensors[stage].clone(), lab.tensors["moe.topk_ids"]
    for expert in range(lab.size.E):
        at = torch.nonzero(ids == expert)[row::tile]
        from_ = torch.nonzero(ids == expert)[row - 1 :: tile][: len(at)]
        value[at[:, 0], at[:, 1]] = lab.tensors[stage][from_[:, 0], from_[:, 1]]
    return lab.field(stage, value)


def head_over(lab: Any, order: list[int], blocks: int, width: int = 2304) -> ErrorField:
    """Logits over a vocabulary wider than every other row, its shards in another order."""
    y = lab.normal(lab.size.T, 32) @ lab.normal(32, width)
    x = torch.cat([y.chunk(blocks, 1)[n] for n in order], 1)
    return ErrorField("logits", None, y, lab.noisy(x), ("T", "V"))


def gain_left_out(lab: Any, stage: str, columns: slice) -> torch.Tensor:
    """A norm whose weight is not applied to some channels."""
    value = lab.tensors[stage].clone()
    value[:, columns] /= lab.weights[stage][columns]
    return value


def third(lab: Any) -> slice:
    """The last third of the channels, in whole strips."""
    return slice(lab.size.D * 2 // 3 // 8 * 8, None)


def with_constant(lab: Any, stage: str, columns: list[int], constant: float) -> ErrorField:
    value = lab.tensors[stage].clone()
    value[:, columns] += constant
    return lab.field(stage, value)


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
    "four last rows rolled": Planted(
        C.ROWS_SHIFTED, lambda lab: tail_rolled(lab, "moe.experts", 4, 1),
        lambda lab, f: (f.numbers["shift"], positions(f)) == (1, (lab.size.T - 4, lab.size.T)),
    ),
    "thirty last rows rolled back": Planted(
        C.ROWS_SHIFTED, lambda lab: tail_rolled(lab, "attn.out", 30, -2),
        lambda lab, f: (f.numbers["shift"], positions(f)) == (-2, (lab.size.T - 30, lab.size.T)),
    ),
    "rows of a chunk each the row before": Planted(
        C.ROWS_SHIFTED, lambda lab: copied(lab, "attn.v", list(range(chunk(lab), 2 * chunk(lab))), 1, **launches(lab)),
        lambda lab, f: (f.numbers["shift"], positions(f)) == (1, (chunk(lab), 2 * chunk(lab))),
    ),
    "one row in 32 a copy": Planted(
        C.ROWS_SHIFTED, lambda lab: copied(lab, "attn.q", list(range(31, lab.size.T, 32)), 1),
        lambda lab, f: (f.numbers["row_of_tile"], f.numbers["tile"]) == (31, 32) and positions(f) is None,
    ),
    "rows 40 before": Planted(
        C.ROWS_SHIFTED, lambda lab: copied(lab, "mlp.norm", list(range(50, 80)), 40),
        lambda lab, f: (f.numbers["shift"], positions(f)) == (40, (50, 80)),
    ),
    "one row a copy of the next": Planted(
        C.ROWS_SHIFTED, lambda lab: copied(lab, "attn.k", [37], -1),
        lambda lab, f: (f.numbers["shift"], positions(f)) == (-1, (37, 38)),
    ),
    "the last row of each tile of an expert's rows": Planted(
        C.ROWS_SHIFTED, lambda lab: row_of_each_tile(lab, "moe.gate", 16, 15),
        lambda lab, f: (f.numbers["order"], f.numbers["row_of_tile"], f.numbers["tile"])
        == ("row of its expert", 15, 16),
    ),
    "a middle row of each tile of an expert's rows": Planted(
        C.ROWS_SHIFTED, lambda lab: row_of_each_tile(lab, "moe.down", 32, 9),
        lambda lab, f: f.numbers["order"] == "row of its expert",
    ),
    "two rows exchanged": Planted(
        C.ROWS_PERMUTED, lambda lab: lab.field("attn.out", put(
            lab.tensors["attn.out"].clone(), [20, 21], lab.tensors["attn.out"][[21, 20]])),
    ),
    "a stretch of rows reversed": Planted(
        C.ROWS_PERMUTED, lambda lab: lab.field("attn.out", put(
            lab.tensors["attn.out"].clone(), slice(20, 40), lab.tensors["attn.out"][20:40].flip(0))),
    ),
    "last two of four shards exchanged": Planted(
        C.COLUMNS_PERMUTED, lambda lab: head_over(lab, [0, 1, 3, 2], 4), lambda lab, f: f.slice.columns == (1152, 2304),
    ),
    "two of sixteen shards exchanged": Planted(
        C.COLUMNS_PERMUTED, lambda lab: head_over(lab, [*range(5), 6, 5, *range(7, 16)], 16),
        lambda lab, f: f.slice.columns == (720, 1008) and f.numbers["distances"] == [-144, 144],
    ),
    "shards rotated": Planted(
        C.COLUMNS_PERMUTED, lambda lab: head_over(lab, [1, 2, 3, 0], 4), lambda lab, f: f.slice.columns is None,
    ),
    "blocks of 32 columns interleaved": Planted(
        C.COLUMNS_PERMUTED, lambda lab: head_over(lab, [n // 2 + 36 * (n % 2) for n in range(72)], 72),
    ),
    "the gain of some channels left out": Planted(
        C.CHANNEL_RATIO, lambda lab: lab.field("mlp.norm", gain_left_out(lab, "mlp.norm", third(lab))),
        lambda lab, f: f.slice.columns is not None and third(lab).start <= f.slice.columns[0],
        sizes=(1, 2),  # over 97 rows FP8's noise carries as many channels as the fault
    ),
    "a constant on one expert's logits": Planted(
        C.MISSING_BIAS, lambda lab: with_constant(lab, "moe.router_logits", [3], 2.0),
        lambda lab, f: f.slice.experts == (3,),
    ),
    "a constant on four columns": Planted(
        C.MISSING_BIAS, lambda lab: with_constant(lab, "attn.out", [16, 17, 18, 19], -3.0),
        lambda lab, f: f.slice.columns == (16, 20),
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


def test_rows_without_a_number_have_no_packed_order(lab):
    """An engine that does not say where its expert rows lie."""
    one = lab(0)
    field = row_of_each_tile(one, "moe.gate", 16, 15)
    unknown = replace(field, row_in_expert=torch.full(field.expert.shape, -1).numpy())
    assert read_fingerprints(unknown)[0].cause != C.ROWS_SHIFTED
