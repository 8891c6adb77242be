"""Does a replay graft at the logits live in a generation, whose engine computes those of the last row alone?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.floor import Floor
from parity.ladder import Opening, Replay, prove, sweep
from parity.ladder.replay_graft import replay_grafts
from parity.probes import capture
from parity.runner import CapturePlan, Request, Schedule, open_runner
from parity.stages import QWEN3_MOE
from parity_kernels.forward.runner import TritonRunner
from parity_kernels.forward.runner import open_runner as open_engine

PROMPT = Request("random", tuple(torch.randint(0, 80, (21,), generator=torch.Generator().manual_seed(3)).tolist()))
NEW = 3
SCHEDULES = [Schedule(), Schedule(chunk=8, decode=3)]


def exchange_shards(runner: TritonRunner) -> None:
    """Logits of ids 32..55 stand in the place of those of 56..79, and the other way round."""
    op = runner.engine.ops["linear_bf16"]

    def exchanged(x: Any, weight: torch.Tensor, **more: Any) -> torch.Tensor:
        if weight.shape[0] == 80:
            weight = torch.cat([weight[:32], weight[56:], weight[32:56]])
        return op(x, weight, **more)

    runner.engine.ops["linear_bf16"] = exchanged


def grafts_at_logits(model: Path, recipe: str) -> list[Any]:
    emulation = Opening(f"recipe:{model}", {"recipe": recipe})
    return list(replay_grafts([(None, "logits")], graph=QWEN3_MOE, layers=2, inner=(), oracle=emulation, recipe=recipe))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_continuation_of_wrong_logits_is_mended_step_by_step(fp8_model: Path, schedule: Schedule):
    healthy, faulty = open_engine(str(fp8_model)), open_engine(str(fp8_model))
    exchange_shards(faulty)
    right = healthy.generate(PROMPT, max_new_tokens=NEW, schedule=schedule).ids
    assert faulty.generate(PROMPT, max_new_tokens=NEW, schedule=schedule).ids != right
    grafts = grafts_at_logits(fp8_model, "fp8_block")
    assert faulty.generate(PROMPT, max_new_tokens=NEW, schedule=schedule, graft=grafts).ids == right


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("kind", "recipe"), [("hf", "fp32"), ("torch", "fp32"), ("recipe", "fp8_block")])
def test_other_engines_take_it_too(fp8_model: Path, kind: str, recipe: str, schedule: Schedule):
    options = {"dtype": "float32"} if kind != "recipe" else {}
    engine = open_runner(f"{kind}:{fp8_model}", **options)
    if "chunk" not in engine.describe().can:
        schedule = replace(schedule, chunk=None)
    own = engine.generate(PROMPT, max_new_tokens=NEW, schedule=schedule)
    grafts = grafts_at_logits(fp8_model, recipe)
    assert engine.generate(PROMPT, max_new_tokens=NEW, schedule=schedule, graft=grafts).ids == own.ids


def test_wrong_columns_of_the_logits_are_proved_and_so_is_their_continuation(
    fp8_model: Path, floor: Floor, oracle: Any, request_160: Request
):
    engine = open_engine(str(fp8_model))
    exchange_shards(engine)
    trace = engine.forward([request_160], capture=CapturePlan())
    texts = tuple(runner.generate(request_160, max_new_tokens=NEW) for runner in (engine, oracle))
    assert texts[0].ids != texts[1].ids
    proof = prove(
        engine, oracle=oracle, emulation=Opening(f"recipe:{fp8_model}"), request=request_160, trace=trace,
        sites=[(None, "logits")], chained=sweep(oracle, trace, floor=floor), floor=floor,
        generations=(texts[0], texts[1]),
    )  # fmt: skip
    assert proof.proved, proof.sentence()
    assert proof.text_before is not None
    assert proof.text_after is not None
    assert proof.text_before[0] < proof.text_after[0] == NEW


def test_logits_of_the_last_row_alone_are_replayed_and_judged(
    fp8_model: Path, floor: Floor, oracle: Any, request_160: Request
):
    """A trace of a generation holds the norm of every row and the logits of the last."""
    for faulty in (False, True):
        engine = open_engine(str(fp8_model))
        if faulty:
            exchange_shards(engine)
        with capture(stages=("final_norm", "logits")) as session:
            engine.generate(request_160, max_new_tokens=1)
        (recorder,) = session.recorders
        replay = Replay(recorder.trace(), oracle)
        site = replay.site(None, "logits")
        assert site.sut is not None
        assert site.sut.position.tolist() == [159]
        assert not site.obstacle
        assert site.inputs["final_norm"].shape[0] == 1
        (record,) = replay.judge(site, floor=floor)
        assert (record.verdict.healthy, (record.over_floor or 0) > 1) == (not faulty, faulty)
