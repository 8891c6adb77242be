"""Several launches behind one tensor: does their coverage add up, and is a short one among them still seen?"""

from __future__ import annotations

import pytest

from parity_kernels.forward.launched import Launched, together
from parity_kernels.launch import Launch


def rows(covered: int, needed: int, columns: int = 384) -> Launch:
    return Launch(
        "linear_fp8", (covered // 64,), {"m": 64}, {"rows": covered, "columns": columns},
        {"rows": needed, "columns": 384},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("launches", "covered", "short"),
    [
        ([rows(192, 192)], 192, False),
        ([rows(128, 96), rows(128, 96)], 192, False),
        ([rows(64, 96), rows(128, 96)], 160, True),
        ([rows(128, 96), rows(64, 96)], 160, True),
        ([rows(128, 96, columns=256), rows(128, 96)], 192, True),
        ([rows(64, 1), rows(64, 1), rows(64, 65)], 66, True),
    ],
    ids=["one", "halves", "first short", "second short", "columns short", "one row past a tile"],
)
def test_what_one_launch_covers_beyond_its_need_makes_up_for_no_other(
    launches: list[Launch], covered: int, short: bool
):
    whole = together(launches)
    assert whole.covers["rows"] == covered
    assert whole.truncated is short


def test_a_call_in_two_pieces_is_told_as_one_launch_beside_those_of_other_ops():
    launched = Launched(lambda: ("attn.q", 0))
    quantized = Launch("quantize_rows", (3,), {}, {"rows": 192}, {"rows": 192})
    for launch in (quantized, rows(128, 96), rows(128, 96)):
        launched.hear(launch)
    told = launched.of("attn.q", 0)
    assert told is not None
    assert told["op"] == "linear_fp8"
    assert (told["covers"]["rows"], told["requires"]["rows"]) == (192, 192)
    assert told["covers"]["quantize_rows.rows"] == 192
    assert launched.of("attn.k", 0) is None
