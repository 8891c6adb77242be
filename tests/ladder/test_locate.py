"""From one capture to one finding: the healthy engine is cleared, a planted fault is found where it was planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.errors import UsageError
from parity.faults import Fault
from parity.fingerprint.causes import CHUNK_BOUNDARY, CONSTANT_RATIO, NONFINITE, ROWS_STALE, ROWS_UNWRITTEN
from parity.fingerprint.record import Fingerprint
from parity.floor import Floor
from parity.invariance import Coverage
from parity.ladder import Replay, sweep
from parity.ladder.locate import _cut_short
from parity.records import Site, Slice, Verdict
from parity.runner import CapturePlan, Request
from parity.trace import MemoryTrace
from parity_kernels.forward.runner import TritonRunner
from parity_kernels.forward.runner import open_runner as open_engine
from parity_kernels.launch import Launch, next_power_of_2
from tests.ladder.conftest import Located, look_at

Change = Callable[[TritonRunner], None]


@pytest.fixture
def look(fp8_model: Path, floor: Floor, oracle: Any, request_160: Request) -> Callable[..., Located]:
    """look(change, fault=None) investigates an engine after `change` was made to it."""

    def run(change: Change = lambda engine: None, *, fault: str | Fault | None = None) -> Located:
        engine = open_engine(str(fp8_model), fault=fault)
        change(engine)
        return look_at(engine.forward([request_160], capture=CapturePlan()), oracle, floor)

    return run


def wrap(name: str, edit: Callable[[Any, int], Any]) -> Change:
    """Replace op `name` by itself followed by `edit(result, number of the call)`."""

    def change(runner: TritonRunner) -> None:
        op, calls = runner.engine.ops[name], iter(range(10**6))
        runner.engine.ops[name] = lambda *args, **kwargs: edit(op(*args, **kwargs), next(calls))

    return change


def test_the_healthy_engine_is_cleared(look: Callable[..., Located]):
    found = look()
    assert found.finding.verdict == "clean", found.finding
    assert found.chained.healthy
    assert found.isolated.healthy
    assert found.finding.over_floor is not None
    assert 0 < found.finding.over_floor < 1


def test_the_incident_is_found_with_its_slice(look: Callable[..., Located]):
    found = look(fault="moe_tile_truncation")
    finding = found.finding
    assert (finding.verdict, finding.stage, finding.layers) == ("fault", "moe.gate", (0, 1))
    assert finding.cause == "rows past a tile edge were never written"
    # 160 tokens, top 2 of 5: the cap is 128 rows, and expert 1 is the one that the router overloads.
    assert finding.slice.experts == (1,)
    assert finding.slice.rows is not None
    assert finding.slice.rows[0] == 128
    assert set(finding.evidence["also_adds_error"]) == {"moe.up"}
    short = [launch for launch in found.coverage if launch.truncated]
    assert {(launch.layer, launch.covered) for launch in short} == {(0, 128), (1, 128)}
    assert all(launch.lost == max(launch.loads) - 128 for launch in short)


def scale_expert(result: torch.Tensor, call: int) -> torch.Tensor:
    """Expert rows of the second layer's down projection, 10 % too large (calls: gate/up and down of each layer)."""
    return result * 1.1 if call == 3 else result


def negate_head(result: tuple[torch.Tensor, torch.Tensor], call: int) -> tuple[torch.Tensor, torch.Tensor]:
    if call == 1:
        result[0][:, 2] *= -1
    return result


def nan_row(result: torch.Tensor, call: int) -> torch.Tensor:
    if call == 0:
        result[17, 3] = float("nan")
    return result


@pytest.mark.parametrize(
    ("op", "edit", "stage", "layers", "cause"),
    [
        ("grouped_gemm_fp8", scale_expert, "moe.down", (1,), CONSTANT_RATIO),
        ("qk_norm_rope", negate_head, "attn.q_rope", (1,), CONSTANT_RATIO),
        ("attention_prefill", nan_row, "attn.context", (0,), NONFINITE),
    ],
)
def test_a_fault_is_found_where_it_arises(
    look: Callable[..., Located], op: str, edit: Callable, stage: str, layers: tuple[int, ...], cause: str
):
    found = look(wrap(op, edit))
    assert (found.finding.verdict, found.finding.stage, found.finding.layers) == ("fault", stage, layers)
    assert found.finding.cause == cause


def test_a_wrong_choice_of_experts_is_no_near_tie(look: Callable[..., Located]):
    def worst_expert(result: tuple[torch.Tensor, torch.Tensor], call: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids, weights = result
        if call == 0:
            ids[50, 1] = next(e for e in (4, 3, 2) if e not in ids[50].tolist())
        return ids, weights

    found = look(wrap("router", worst_expert))
    assert (found.finding.stage, found.finding.layers) == ("moe.topk_ids", (0,))


def test_a_launch_that_falls_short_is_not_clean_even_when_nothing_shows(look: Callable[..., Located]):
    def believe_less(runner: TritonRunner) -> None:
        sound = runner.engine.launches["grouped_gemm"]
        # The grid reaches everything, but claims only 64 rows an expert: no number is wrong, the arithmetic is.
        runner.engine.launches["grouped_gemm"] = lambda **known: replace(sound(**known), covers={"rows_per_expert": 64})

    found = look(believe_less)
    assert found.finding.verdict == "unresolved"
    assert any("truncated=true" in line for line in found.finding.evidence["open"])


def test_a_cache_write_that_ends_early_is_told_by_its_launch(look: Callable[..., Located]):
    """160 rows, written in whole tiles of 64: the last 32 keys and values are whatever the cache held."""

    def whole_tiles(*, n_rows: int, n_columns: int) -> Launch:
        programs = max(n_rows // 64, 1)
        block = {"t": 64, "c": next_power_of_2(n_columns)}
        return Launch("kv_write", (programs,), block, {"rows": programs * 64}, {"rows": n_rows})

    found = look(
        fault=Fault(
            "x", "qwen3_moe", "x", truth=Site((), "attn.context"), cause=ROWS_STALE, launch={"kv_write": whole_tiles}
        )
    )
    assert found.finding.stage == "attn.context"
    assert found.finding.cause in (ROWS_STALE, ROWS_UNWRITTEN)
    assert found.finding.slice.positions is not None
    assert found.finding.slice.positions[0] == 128
    assert any("kv_write.rows=160 grid_cap=128 truncated=true" in line for line in found.finding.evidence["launches"])


@pytest.mark.parametrize(("begins", "told"), [(128, True), (120, False)])
def test_a_launch_is_blamed_where_it_ends_and_nowhere_else(begins: int, told: bool):
    seen = Fingerprint(CHUNK_BOUNDARY, 0.5, {}, "", Slice(positions=(begins, 160)))
    launch = Coverage("L00.attn.context", 0, "attn.context", "kv_write.rows", 128, 160, None, (2,))
    for one, expected in ((launch, told), (replace(launch, covered=160), False), (replace(launch, layer=1), False)):
        assert (_cut_short("attn.context", {0: (seen,)}, (one,)) is not None) is expected
    assert _cut_short("attn.out", {0: (seen,)}, (launch,)) is None


def test_without_its_inputs_a_stage_is_not_compared_and_nothing_is_clean(
    fp8_model: Path, floor: Floor, oracle: Any, request_160: Request
):
    engine = open_engine(str(fp8_model))
    trace = engine.forward([request_160], capture=CapturePlan(layers=(0, 1), stages=("moe.*",)))
    summary = Replay(trace, oracle).compare(floor=floor)
    by_name = {record.name: record for record in summary.comparisons}
    assert by_name["L00.moe.gate"].verdict is Verdict.NOT_COMPARED
    assert "L00.mlp.norm" in by_name["L00.moe.gate"].reason
    assert by_name["L00.attn.q"].verdict is Verdict.MISSING_IN_SUT
    assert by_name["L00.moe.act"].verdict is Verdict.WITHIN_FLOOR
    assert not summary.healthy


def test_a_replayed_site_carries_the_inputs_that_the_oracle_was_fed(fp8_model: Path, oracle: Any, request_160: Request):
    replay = Replay(open_engine(str(fp8_model)).forward([request_160], capture=CapturePlan()), oracle)
    gate = replay.site(1, "moe.gate")
    assert gate.oracle is not None
    assert set(gate.inputs) == {"mlp.norm", "moe.topk_ids"}
    norm = replay.site(1, "mlp.norm").sut
    assert norm is not None
    assert torch.equal(gate.inputs["mlp.norm"], norm.tensor)
    again = oracle.replay("moe.gate", 1, gate.inputs, positions=torch.arange(160), recipe="fp32")
    assert torch.equal(again, gate.oracle)
    assert replay.site(None, "embed.out").inputs["ids"].tolist() == list(request_160.ids)


def test_every_site_is_compared_once_in_both_views(fp8_model: Path, floor: Floor, oracle: Any, request_160: Request):
    trace = open_engine(str(fp8_model)).forward([request_160], capture=CapturePlan())
    chained, isolated = sweep(oracle, trace, floor=floor), Replay(trace, oracle).compare(floor=floor)
    names = [record.name for record in isolated.comparisons]
    assert [record.name for record in chained.comparisons] == names
    assert len(set(names)) == len(names) == 1 + 2 * 21 + 2
    assert {record.mode for record in chained.comparisons} == {"chained"}
    assert {record.mode for record in isolated.comparisons} == {"isolated"}


def test_a_floor_is_not_calibrated_beside_an_engine(fp8_model: Path, oracle: Any, request_160: Request):
    from parity.ladder import calibrate_floor

    with pytest.raises(UsageError, match="parity_kernels"):
        calibrate_floor(emulations=[oracle], oracle=oracle, requests=[request_160] * 4)


def test_an_empty_trace_is_not_clean(fp8_model: Path, floor: Floor, oracle: Any, request_160: Request):
    run = open_engine(str(fp8_model)).forward([request_160]).run
    summary = Replay(MemoryTrace(run, (), {}), oracle).compare(floor=floor)
    assert not summary.healthy
    assert set(summary.verdicts) == {"MISSING_IN_SUT"}


@pytest.mark.parametrize(
    "plan",
    [
        CapturePlan(tokens="last"),
        CapturePlan(tokens="40:90"),
        CapturePlan(stages=("attn.*",)),
        CapturePlan(layers=(1,)),
    ],
    ids=["last token", "some tokens", "some stages", "one layer"],
)
def test_a_partial_capture_of_a_healthy_engine_is_neither_clean_nor_a_fault(
    fp8_model: Path, floor: Floor, oracle: Any, request_160: Request, plan: CapturePlan
):
    engine = open_engine(str(fp8_model))
    trace = engine.forward([request_160], capture=plan)
    found = look_at(trace, oracle, floor)
    assert found.finding.verdict == "unresolved"
    assert found.finding.evidence["open"]


def test_a_permutation_that_duplicates_a_row_is_named_and_does_not_end_the_investigation(
    look: Callable[..., Located],
):
    def duplicate(result: Any, call: int) -> Any:
        if call == 1:
            result.row_token[11] = result.row_token[10]
        return result

    found = look(wrap("permute", duplicate))
    assert found.finding.verdict in ("fault", "unresolved")
    records = {record.name: record for record in found.isolated.comparisons}
    assert records["L01.moe.gate"].verdict is Verdict.NOT_COMPARED
    assert "more than once" in records["L01.moe.gate"].reason
    assert records["L00.moe.gate"].verdict is Verdict.WITHIN_FLOOR


def test_the_slice_is_named_where_no_detector_knows_the_shape(look: Callable[..., Located]):
    head = look(wrap("qk_norm_rope", negate_head)).finding.slice
    assert (head.heads, head.experts) == ((2,), None)
    row = look(wrap("grouped_gemm_fp8", lose_row)).finding.slice
    assert row.positions is not None
    assert row.experts is not None
    assert row.positions[1] - row.positions[0] == 1


def lose_row(result: torch.Tensor, call: int) -> torch.Tensor:
    if call == 3:
        result[5] = 0
    return result
