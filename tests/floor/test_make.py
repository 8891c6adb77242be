"""Do the clean runs of a shipped floor leave out what an engine cannot show?"""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.floors.borrow import borrow
from fixtures.floors.make import HERE, open_recipe, sample_all
from parity.errors import UsageError
from parity.floor import Floor, FloorSample
from parity.ladder.calibrate import CleanRun, sample_run
from parity.runner import Request

RUN = CleanRun(Request("few", (5, 9, 2, 33, 7, 60, 11, 4, 8)), "few", order=1)


def sampled(hide: tuple[str, ...]) -> FloorSample:
    emulations, oracle = open_recipe("fp32", hide)
    return sample_run(RUN, emulations=emulations, oracle=oracle)


def test_a_hidden_stage_leaves_no_sample_and_the_one_that_reads_it_does():
    shown, without = (sampled(hide) for hide in ((), ("moe.act", "moe.gate", "moe.up")))
    of_both = {key.stage for key in shown.worst}, {key.stage for key in without.worst}
    assert of_both[0] - of_both[1] == {"moe.act", "moe.gate", "moe.up"}
    assert any(key.mode == "distance" and key.stage == "moe.down" for key in without.worst)
    assert open_recipe("fp32") is open_recipe("fp32")


def test_samples_with_other_stages_hidden_are_refused(tmp_path: Path):
    keep = tmp_path / "samples.jsonl"
    assert sample_all("fp32", [], jobs=1, keep=keep) == []
    with pytest.raises(UsageError, match=r"hidden: moe\.act"):
        sample_all("fp32", [], jobs=1, keep=keep, hide=("moe.act",))


def test_borrowed_gates_are_those_of_the_other_recipe_on_the_same_weights():
    own, stored = (Floor.load(HERE / f"{name}.json") for name in ("bf16_vllm", "bf16_vllm_cuda"))
    lent = borrow(own, "bf16_vllm_cuda")
    assert (lent.recipe.name, lent.gates, lent.scales) == ("bf16_vllm_cuda", own.gates, own.scales)
    assert lent.heldout is None, "what is known of one recipe's false alarms is not known of another's"
    assert not lent.power
    assert (stored.recipe, stored.gates, stored.scales) == (lent.recipe, lent.gates, lent.scales)
    assert stored.heldout is not None
    assert not stored.heldout.alarms
    with pytest.raises(UsageError, match="weights of bf16_vllm_cuda"):
        borrow(Floor.load(HERE / "fp8_block.json"), "bf16_vllm_cuda")
