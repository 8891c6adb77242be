"""Is each row of a packed batch the token it is taken for, and is a batch that contradicts itself refused?"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from parity.errors import ProbeError
from parity_oracles.vllm.batch import Feeding, Progress, read_batch, rows_given

FEEDING = Feeding(((4, 5, 6, 7, 8), (9, 5), (3,)), (4, 2, 1))
KNOWN = {"x": 0, "y": 1, "z": 2}


def read(names: list[str], counts: list[int], positions: list[int], ids: list[int] | None) -> Any:
    told = None if ids is None else torch.tensor(ids)
    return read_batch(names, counts, torch.tensor(positions), told, known=KNOWN, feeding=FEEDING)


def test_rows_in_the_order_of_the_batch():
    batch = read(["y", "x"], [2, 3], [0, 1, 1, 2, 3, 0, 0], [9, 5, 5, 6, 7, 0, 0])
    assert len(batch) == 5  # the last two are padding
    assert batch.rows.request.tolist() == [1, 1, 0, 0, 0]
    assert batch.rows.position.tolist() == [0, 1, 1, 2, 3]
    assert batch.last_rows == [1, 4]


def test_an_empty_batch_has_no_rows():
    assert len(read([], [], [0, 0], None)) == 0
    assert len(read(["x", "z"], [0, 1], [0], [3])) == 1


@pytest.mark.parametrize(
    ("names", "counts", "positions", "ids", "said"),
    [
        (["x", "y"], [2, 2], [0, 1, 0, 1], [9, 5, 4, 5], "ids of request 0"),
        (["y", "x"], [2, 2], [0, 1, 0, 2], [9, 5, 4, 6], "rising by one"),
        (["q"], [1], [0], [4], "requests among"),
        (["x"], [3], [0, 1], [4, 5], "positions for every row"),
        (["x", "y"], [1], [0], [4], "positions for every row"),
        (["y"], [3], [0, 1, 2], [9, 5, 5], "ids of request 1"),
    ],
)
def test_what_contradicts_the_requests_is_refused(names: Any, counts: Any, positions: Any, ids: Any, said: str):
    with pytest.raises(ProbeError, match=said):
        read(names, counts, positions, ids)


def groups(progress: Progress, *batch: Any) -> list[tuple[str, int, int, list[int]]]:
    return [(g.phase, g.step, g.chunk, g.index.tolist()) for g in progress.groups(read(*batch))]


def test_a_step_that_mixes_chunks_and_decodes_is_taken_apart():
    progress = Progress(FEEDING)
    assert groups(progress, ["x", "y"], [2, 2], [0, 1, 0, 1], [4, 5, 9, 5]) == [("prefill", 0, 0, [0, 1, 2, 3])]
    assert groups(progress, ["z", "x"], [1, 2], [0, 2, 3], [3, 6, 7]) == [
        ("prefill", 0, 0, [0]),
        ("prefill", 0, 1, [1, 2]),
    ]
    assert groups(progress, ["x"], [1], [4], [8]) == [("decode", 1, 0, [0])]
    assert progress.first_rows() == {0: 0, 1: 0, 2: 0}


def test_rows_that_come_twice_are_refused():
    progress = Progress(FEEDING)
    groups(progress, ["x"], [2], [0, 1], [4, 5])
    with pytest.raises(ProbeError, match="pushed out"):
        groups(progress, ["x"], [2], [0, 1], [4, 5])


def test_a_gap_is_refused():
    progress = Progress(FEEDING)
    groups(progress, ["x"], [1], [0], [4])
    with pytest.raises(ProbeError, match="go on at position 1"):
        groups(progress, ["x"], [1], [2], [6])


def test_prompt_and_decode_in_one_piece_are_refused():
    with pytest.raises(ProbeError, match="steps of their own"):
        groups(Progress(FEEDING), ["x"], [5], [0, 1, 2, 3, 4], [4, 5, 6, 7, 8])


HIDDEN = torch.tensor([[1.0, 2], [3, 4], [5, 6], [1, 2], [7, 8], [0, -0.0]])


@pytest.mark.parametrize(
    ("rows", "last", "taken", "found"),
    [
        ([2, 5], [2, 5], (), [2, 5]),
        ([0, 1, 2], [2, 5], (), [0, 1, 2]),
        ([3, 4], [2, 5], (), [3, 4]),  # row 0 has the same bits, and what follows it has not
        ([0], [2, 5], (), [0]),
        ([0], [2, 5], (0,), [3]),  # prompts that begin alike
        ([0, 4], [2, 5], (), [3, 4]),
        ([4, 1], [2, 5], (), [4, 1]),
        ([0, 0], [2, 5], (), [0, 3]),
        ([], [2, 5], (), []),
    ],
)
def test_rows_are_known_again_by_their_bits(rows: list[int], last: list[int], taken: Any, found: list[int]):
    assert rows_given(HIDDEN[rows], HIDDEN, last, taken) == found


def test_a_row_that_the_final_norm_never_gave_is_refused():
    with pytest.raises(ProbeError, match="row 0 of 1 is none of them"):
        rows_given(torch.tensor([[0.0, 0.0]]), HIDDEN, [2])  # -0 has other bits
    with pytest.raises(ProbeError, match="rows of 2 values"):
        rows_given(torch.zeros(1, 3), HIDDEN, [2])
