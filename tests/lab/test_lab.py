"""Is every experiment of the lab what the ladder's own is, done once, and refused with the place where it cannot be?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lab_engine import FAULTY, Planted, request_of

from parity import Lab
from parity.climb.counted import Counted
from parity.errors import ParityError, UsageError
from parity.ladder import sweep
from parity.ladder.ledger import Standing
from parity.records import Verdict
from parity.runner import CapturePlan, open_runner
from parity.trace import save_trace

Open = Callable[..., Lab]


def all_experiments(lab: Lab) -> list[str]:
    """What each experiment says, in words that hold its numbers."""
    return [
        repr(one)
        for one in (
            lab.texts(), lab.sweep(), lab.replay(), lab.zoom(1, "attn.context"),
            lab.graft(1, "attn.context", heads=[1]), lab.graft(1, "attn.context", donor="self"),
        )
    ]  # fmt: skip


def test_a_sweep_is_the_ladders_own(open_lab: Open, bf16_model: Path, exact: Counted):
    lab = open_lab(FAULTY)
    request = request_of(0, 40)
    trace = Planted(bf16_model, FAULTY).forward([request], capture=CapturePlan())
    expected = sweep(exact, trace, floor=None)
    assert [(c.name, c.whole) for c in lab.sweep().comparisons] == [
        (c.name, pytest.approx(c.whole, nan_ok=True)) for c in expected.comparisons
    ]


def test_nothing_runs_twice_in_a_session_nor_in_the_next(open_lab: Open, bf16_model: Path, exact: Counted):
    engine = Counted(Planted(bf16_model, FAULTY))
    lab = open_lab(engine=engine)
    first = all_experiments(lab)
    # One capture of the prompt and two runs under a graft.
    assert (engine.forwards, engine.generations) == (3, 1)
    assert all_experiments(lab) == first
    assert (engine.forwards, engine.generations) == (3, 1)
    before = exact.forwards, exact.generations
    later = Counted(Planted(bf16_model, FAULTY))
    again = open_lab(engine=later)
    assert all_experiments(again) == first
    assert (later.forwards, later.generations) == (0, 0)
    assert (exact.forwards, exact.generations) == before
    assert len(again.ledger.tests()) == len(lab.ledger.tests()) == 4, "two rungs and two grafts, entered once"


def test_another_version_another_prompt_and_other_options_are_run(open_lab: Open, bf16_model: Path):
    def forwards(**options: Any) -> int:
        engine = Counted(Planted(bf16_model))
        open_lab(engine=engine, **options).sweep()
        return engine.forwards

    assert forwards() == 1
    assert forwards() == 0
    assert forwards(version="2") == 1
    assert forwards(prompt=request_of(1, 40)) == 1
    assert forwards(prompt=request_of(0, 40).ids) == 1, "a request of another name"


def test_an_open_engine_without_a_version_is_not_taken_for_another_sessions(
    open_lab: Open, bf16_model: Path, monkeypatch: pytest.MonkeyPatch
):
    engine = Counted(Planted(bf16_model))
    open_lab(engine=engine, version=None).sweep()
    open_lab(engine=engine, version=None).sweep()
    assert engine.forwards == 1
    monkeypatch.setattr("parity.lab.identity._SESSION", "the next one")
    open_lab(engine=engine, version=None).sweep()
    assert engine.forwards == 2


def test_a_damaged_capture_is_run_again(open_lab: Open, bf16_model: Path, tmp_path: Path):
    open_lab().sweep()
    for manifest in (tmp_path / "cache" / "captures").glob("*/manifest.jsonl"):
        manifest.write_bytes(manifest.read_bytes()[:-40])
    engine = Counted(Planted(bf16_model))
    lab = open_lab(engine=engine)
    assert lab.coverage() == ()
    assert engine.forwards == 1


def test_a_fault_is_found_ranked_and_proved(open_lab: Open, floor_file: Path):
    lab = open_lab(FAULTY, floor=floor_file)
    assert lab.sweep().diverged
    adds = [record.name for record in lab.replay().comparisons if record.verdict is Verdict.EXCEEDS_FLOOR]
    assert adds == ["L01.attn.context"]
    finding = lab.zoom()
    assert (finding.verdict, finding.stage, finding.layers) == ("fault", "attn.context", (1,))
    heads = lab.zoom(1, "attn.context").by("head")
    assert heads.slices[0].where == "head 1"
    assert heads.slices[0].rel_l2 == pytest.approx(0.1, rel=0.02)  # BF16 noise is 0.002 to 0.01
    assert (heads.over, heads.total) == (1, 4)
    assert lab.zoom(1, "attn.q").fingerprints == (), "a healthy site has no cause"
    mended = lab.graft(1, "attn.context", donor="replay")
    assert mended.effect.kl_after < mended.effect.kl_before
    assert lab.prove().proof["proved"]
    standing = {h.claim: lab.ledger.standing(h.id) for h in lab.ledger.hypotheses if h.raised_by == "lab.graft"}
    assert list(standing.values()) == [Standing.SUPPORTED]
    assert lab.report().read_text().startswith("<!doctype html>")
    assert "attn.context" in repr(lab.finding)


def test_a_graft_that_mends_nothing_is_entered_as_refuted(open_lab: Open):
    lab = open_lab({(1, "attn.out"): torch.zeros_like})
    # What a stage reads does not matter where the next one puts out zeros.
    kept = lab.graft(1, "attn.context")
    assert kept.effect.changed == 0
    assert kept.effect.kl_after == kept.effect.kl_before > 0
    (claim,) = lab.ledger.hypotheses
    assert lab.ledger.standing(claim.id) is Standing.REFUTED


def test_a_trace_alone_is_swept_and_cannot_be_grafted(open_lab: Open, bf16_model: Path, tmp_path: Path):
    trace = Planted(bf16_model, FAULTY).forward([request_of(0, 40)], capture=CapturePlan())
    save_trace(tmp_path / "trace", trace)
    lab = open_lab(engine=f"trace:{tmp_path / 'trace'}", prompt=None)
    assert lab.zoom(1, "attn.context").by("head").slices[0].where == "head 1"
    for refused in (lab.texts, lambda: lab.graft(1, "attn.context")):
        with pytest.raises(ParityError, match="trace"):
            refused()


@pytest.mark.parametrize(
    ("wrong", "place", "expected"),
    [
        (lambda lab: lab.zoom(7, "attn.q"), "attn.q", "0..1"),
        (lambda lab: lab.zoom(0, "attn.nothing"), "family qwen3_moe", "attn.nothing"),
        (lambda lab: lab.zoom(0), "layer 0", "moe.gate"),
        (lambda lab: lab.zoom(0, "attn.q").by("expert"), "L00.attn.q", "head"),
        (lambda lab: lab.zoom(0, "moe.topk_ids").by("row"), "moe.topk_ids", "ids have no distance"),
        (lambda lab: lab.graft(0, "attn.q", donor="nobody"), "donor", "oracle, replay, self"),
        (lambda lab: lab.graft(0, "attn.q", heads=[9]), "L00.attn.q", "0 to 3"),
        (lambda lab: lab.graft(0, "mlp.norm", heads=[1]), "L00.mlp.norm", "axes"),
        (lambda lab: lab.graft(0, "attn.q", donor="replay", heads=[1]), "replay", "whole stages"),
        (lambda lab: lab.rung(12), "rung", "4 (sweep)"),
        (lambda lab: lab.zoom(), "zoom", "floor"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_says_where_and_what_can(open_lab: Open, wrong: Any, place: str, expected: str):
    with pytest.raises(ParityError) as said:
        wrong(open_lab())
    assert place in said.value.place
    assert expected in f"{said.value.expected} {said.value.found}"


@pytest.mark.parametrize("prompt", ["Once upon a time", [1.5], [], [99999]])
def test_a_prompt_that_is_none_is_refused(open_lab: Open, prompt: Any):
    with pytest.raises(ParityError, match=r"prompt|request"):
        open_lab(prompt=prompt).sweep()


def test_a_floor_of_another_recipe_is_refused(open_lab: Open, floor_file: Path, fp8_model: Path):
    with pytest.raises(UsageError, match=r"weights|floor"):
        open_lab(engine=Counted(Planted(fp8_model)), floor=floor_file)


def test_a_nan_is_ranked_first(open_lab: Open):
    def spoil(out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[17, 2, 3] = np.nan
        return out

    ranking = open_lab({(0, "attn.q"): spoil}).zoom(0, "attn.q").by("row")
    assert ranking.slices[0].where == "position 17"
    assert not np.isfinite(ranking.slices[0].rel_l2)


def test_equal_bits_are_cleared_without_a_floor(open_lab: Open, bf16_model: Path, exact: Counted):
    lab = open_lab(engine=Counted(open_runner(f"recipe:{bf16_model}", recipe="fp32")), emulation=None)
    assert lab.sweep().healthy
    assert lab.replay().healthy
    assert "are the same bits" in lab.rung(4).sentence
