"""Does a graft that replays its site find all that it reads, beside other grafts and step after step?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from parity.graft.effect import logits_of
from parity.ladder import Opening
from parity.ladder.replay_graft import Site, replay_grafts
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.stages import QWEN3_MOE

PROMPT = Request("random", tuple(torch.randint(0, 80, (21,), generator=torch.Generator().manual_seed(3)).tolist()))
LAYERS = 2


@pytest.fixture(scope="module")
def sut(fp8_model: Path) -> Any:
    return open_runner(f"recipe:{fp8_model}")


@pytest.mark.parametrize("schedule", [Schedule(), Schedule(chunk=8, decode=3)])
@pytest.mark.parametrize(
    "sites",
    [
        # The rotation reads its own step alone; attention, which reads what it leaves, reads all steps.
        [(0, "attn.q_norm"), (0, "attn.context")],
        [(0, "attn.q_norm"), (0, "attn.k_norm"), (0, "attn.context"), (1, "attn.q_norm"), (1, "attn.context")],
        [(1, "moe.gate"), (1, "moe.up"), (1, "moe.down"), (0, "attn.q_norm")],
    ],
)
def test_grafts_with_and_without_history_live_side_by_side(
    sut: Any, fp8_model: Path, sites: list[Site], schedule: Schedule
):
    grafts = replay_grafts(
        sites, graph=QWEN3_MOE, layers=LAYERS, inner={"attn.q_norm", "attn.k_norm"},
        oracle=Opening(f"recipe:{fp8_model}"), recipe="fp8_block",
    )  # fmt: skip
    plan = CapturePlan(stages=("logits",))
    own = logits_of(sut.forward([PROMPT], schedule=schedule, capture=plan))
    grafted = logits_of(sut.forward([PROMPT], schedule=schedule, capture=plan, graft=grafts))
    # The engine is the emulation itself: what the replay puts in is what was there, but for the order of sums, which
    # follows the number of rows.
    assert torch.equal(own, grafted)


@pytest.mark.parametrize("sites", [[(0, "attn.q_norm"), (0, "attn.context")], [(None, "embed.out")]])
def test_a_continuation_goes_through_the_grafts(sut: Any, fp8_model: Path, sites: list[Site]):
    # The embedding of a new token is replayed from its id, which only the run knows.
    grafts = replay_grafts(
        sites, graph=QWEN3_MOE, layers=LAYERS, inner={"attn.q_norm"}, oracle=Opening(f"recipe:{fp8_model}"),
        recipe="fp8_block",
    )  # fmt: skip
    own = sut.generate(PROMPT, max_new_tokens=4)
    assert sut.generate(PROMPT, max_new_tokens=4, graft=grafts).ids == own.ids
