"""Does a graft replace exactly the rows it names, and is one that replaced nothing found out?"""

# Several statements under `raises` on purpose: the block is the forward pass that must fail.
# ruff: noqa: PT012

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from parity.errors import ProbeError
from parity.probes import CapturePlan, Graft, Recorder
from parity.records import Rows


class DoubledSum:
    """A computed graft: resid.out of layer 1 becomes twice attn.norm of that layer, over all positions so far."""

    layer, stage, needs, history = 1, "resid.out", ((1, "attn.norm"),), True

    def __init__(self) -> None:
        self.positions: list[list[int]] = []

    def compute(self, own: Any, tensor: torch.Tensor, seen: Any) -> torch.Tensor:
        norms = seen.select(stage="attn.norm", layer=1)
        self.positions.append([int(p) for capture in norms for p in capture.rows.position])
        assert [c.number for c in seen.captures] == list(range(len(seen.captures)))
        return (2 * seen.tensor(norms[-1])).to(tensor.dtype)


IDS, OTHER = (5, 6, 7, 8, 9, 10), (20, 21, 22)


def forward(engine: Any, *grafts: Graft, plan: CapturePlan | None = None, chunk: int = 4) -> tuple[torch.Tensor, Any]:
    recorder = Recorder(plan or CapturePlan(), engine.run(IDS, OTHER), grafts)
    with recorder:
        logits = engine.forward(recorder, recorder.run, chunk=chunk)
    return logits, recorder.trace()


def graft_of(trace: Any, stage: str, layer: int | None) -> Graft:
    """The whole of a site as a graft, its rows in an order of their own."""
    captures = trace.select(stage=stage, layer=layer)
    tensor = torch.cat([trace.tensor(capture) for capture in captures])
    rows = Rows(
        *(
            None
            if getattr(captures[0].rows, name) is None
            else np.concatenate([getattr(c.rows, name) for c in captures])
            for name in ("request", "position", "slot", "expert")
        )
    )
    order = np.random.default_rng(0).permutation(len(rows))
    return Graft(layer, stage, tensor[torch.from_numpy(order)], rows.take(order))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


@pytest.mark.parametrize(
    ("stage", "layer"), [("embed.out", None), ("moe.gate", 0), ("moe.topk_ids", 1), ("resid.out", 1), ("logits", None)]
)
@pytest.mark.parametrize("chunk", [2, 6])
def test_the_sham_changes_no_bit(engine: Any, stage: str, layer: int | None, chunk: int) -> None:
    logits, trace = forward(engine)
    again, grafted = forward(engine, graft_of(trace, stage, layer), chunk=chunk)
    own, _ = forward(engine, chunk=chunk)
    assert torch.equal(bits(again), bits(own))
    assert grafted.run.flags["grafts"] == [stage if layer is None else f"L{layer:02d}.{stage}"]
    assert "grafts" not in trace.run.flags
    assert logits.numel()


def test_the_sham_keeps_nan_payloads_and_signed_zeros(engine: Any) -> None:
    raw = torch.tensor([0x7FC1, -1, -32768, 0x7F81, 1, 0], dtype=torch.int16).view(torch.bfloat16)
    rows = Rows(np.zeros(6, np.int32), np.arange(6, dtype=np.int64))
    x = raw.reshape(6, 1).expand(6, 6).contiguous()
    recorder = Recorder(None, engine.run(IDS), [Graft(None, "embed.out", x.clone(), rows)])
    with recorder:
        new = recorder.step(phase="prefill", step=0, rows=rows)("embed.out", x)
    assert new is not x
    assert torch.equal(bits(new), bits(x))


def test_only_the_named_rows_change(engine: Any) -> None:
    _, plain = forward(engine, chunk=6)
    rows = Rows(np.array([0, 1], np.int32), np.array([4, 1], np.int64), np.array([1, 0], np.int32))
    value = torch.stack([torch.full((6,), 3.0), torch.full((6,), 4.0)])
    _, trace = forward(engine, Graft(0, "moe.gate", value, rows), chunk=6)
    before, after = plain.select(stage="moe.gate", layer=0)[0], trace.select(stage="moe.gate", layer=0)[0]
    changed = (bits(trace.tensor(after)) != bits(plain.tensor(before))).any(1).numpy()
    names = {
        (int(after.rows.request[at]), int(after.rows.position[at]), int(after.rows.slot[at]))
        for at in np.flatnonzero(changed)
    }
    assert names == {(0, 4, 1), (1, 1, 0)}
    assert set(trace.tensor(after)[changed][:, 0].tolist()) == {3.0, 4.0}
    # What the forward pass goes on with: the residual of those two tokens, and of no other.
    a, b = (t.tensor(t.select(stage="resid.out", layer=0)[0]) for t in (plain, trace))
    assert (a != b).any(1).sum() == 2


def test_a_graft_reaches_its_row_in_whatever_chunk_it_is(engine: Any) -> None:
    whole, trace = forward(engine, chunk=6)
    graft = graft_of(trace, "resid.out", 0)
    graft = replace(graft, tensor=graft.tensor * 2)
    expected, _ = forward(engine, graft, chunk=6)
    assert not torch.equal(expected, whole)
    for chunk in (1, 4):
        found, _ = forward(engine, graft, chunk=chunk)
        assert torch.equal(found[-1], expected[len(IDS) - 1])


def test_values_are_cast_to_the_dtype_of_the_forward_pass(engine: Any) -> None:
    _, trace = forward(engine)
    graft = graft_of(trace, "resid.out", 0)
    exact = torch.full_like(graft.tensor, 1.0, dtype=torch.float64) + 2.0**-8 + 2.0**-20
    _, after = forward(engine, replace(graft, tensor=exact))
    # bf16 has 8 bits: between 1 and 1 + 2^-7 the value lies just above the middle, so it rounds up.
    values = after.tensor(after.select(stage="resid.out", layer=0)[0])
    assert values.dtype == torch.bfloat16
    assert bool((values == 1 + 2.0**-7).all())


def test_the_tensor_of_the_engine_is_left_alone(engine: Any) -> None:
    rows = Rows(np.zeros(3, np.int32), np.arange(3, dtype=np.int64))
    x = torch.zeros(3, 2, 6)
    graft = Graft(None, "embed.out", torch.ones(1, 6), rows.take(np.array([1])))
    recorder = Recorder(None, engine.run(IDS), [graft])
    with recorder:
        probe = recorder.step(phase="prefill", step=0, rows=rows)
        assert probe.wants("embed.out")
        assert not probe.wants("logits")
        new = probe("embed.out", x[:, 1])
        assert probe("attn.norm", x[:, 0], 0).data_ptr() == x.data_ptr()
    assert x.sum() == 0
    assert new.tolist() == [[0] * 6, [1] * 6, [0] * 6]
    assert new.is_contiguous()
    assert len(recorder.trace().captures) == 0


def test_misfits_are_refused(engine: Any) -> None:
    _, trace = forward(engine, chunk=6)
    gate, resid, ids = (graft_of(trace, stage, 0) for stage in ("moe.gate", "resid.out", "moe.topk_ids"))
    doubled = np.zeros(len(gate.rows), np.intp)
    wrong_expert = Rows(gate.rows.request, gate.rows.position, gate.rows.slot, (gate.rows.expert + 1) % 4)
    beyond = Rows(resid.rows.request, resid.rows.position + 1)
    misfits = [
        (replace(resid, tensor=resid.tensor[:, :5]), "rows of shape"),
        (replace(resid, tensor=resid.tensor[:4]), "9 leading rows"),
        (replace(resid, tensor=resid.tensor.int()), "floats replace floats"),
        (replace(ids, tensor=ids.tensor.float()), "Ids replace ids"),
        (replace(gate, rows=gate.rows.take(doubled)), "a row named twice"),
        (replace(gate, rows=wrong_expert), "18 of 18 rows computed by another expert"),
        (replace(resid, rows=gate.rows.take(np.arange(9))), "one side only"),
        (replace(resid, rows=beyond), "2 rows that this run never computed"),
        (replace(resid, layer=None, stage="final_norm"), "9 rows that this run never computed"),
    ]
    for graft, said in misfits:
        with pytest.raises(ProbeError, match=said):
            forward(engine, graft, chunk=6)


def test_a_value_inside_a_fused_kernel_cannot_be_replaced(engine: Any) -> None:
    rows = Rows(np.zeros(1, np.int32), np.zeros(1, np.int64))
    recorder = Recorder(None, engine.run(IDS), [Graft(0, "attn.q_norm", torch.zeros(1, 2, 3), rows)])
    with pytest.raises(ProbeError, match="inside a fused kernel"), recorder:
        probe = recorder.step(phase="prefill", step=0, rows=rows)
        probe("attn.q_norm", torch.zeros(1, 2, 3), 0, replaceable=False)


def test_a_graft_of_columns_leaves_the_others(engine: Any) -> None:
    _, trace = forward(engine, chunk=6)
    (own,) = trace.select(stage="resid.out", layer=0)
    other = trace.tensor(own) + 1
    _, grafted = forward(engine, Graft(0, "resid.out", other, own.rows, columns=((1, 3), (5, 6))), chunk=6)
    (seen,) = grafted.select(stage="resid.out", layer=0)
    replaced = torch.tensor([False, True, True, False, False, True])
    assert torch.equal(grafted.tensor(seen)[:, replaced], other[:, replaced])
    assert torch.equal(grafted.tensor(seen)[:, ~replaced], trace.tensor(own)[:, ~replaced])


@pytest.mark.parametrize("columns", [(), ((0, 7),), ((3, 3),), ((-1, 2),)])
def test_columns_outside_the_row_are_refused(engine: Any, columns: Any) -> None:
    _, trace = forward(engine, chunk=6)
    (own,) = trace.select(stage="resid.out", layer=0)
    with pytest.raises(ProbeError, match=r"column ranges inside 0\.\.6"):
        forward(engine, Graft(0, "resid.out", trace.tensor(own), own.rows, columns=columns), chunk=6)


def test_a_computed_graft_reads_what_the_run_has_seen(engine: Any) -> None:
    graft = DoubledSum()
    recorder = Recorder(CapturePlan(), engine.run(IDS), [graft])
    with recorder:
        engine.forward(recorder, recorder.run, chunk=4)
    assert graft.positions == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    trace = recorder.trace()
    for norm, out in zip(
        trace.select(stage="attn.norm", layer=1), trace.select(stage="resid.out", layer=1), strict=True
    ):
        assert torch.equal(trace.tensor(out), 2 * trace.tensor(norm))


def test_a_computed_graft_without_history_holds_one_step_only(engine: Any) -> None:
    graft = DoubledSum()
    graft.history = False  # type: ignore[misc]
    recorder = Recorder(None, engine.run(IDS), [graft])
    with recorder:
        engine.forward(recorder, recorder.run, chunk=4)
    assert graft.positions == [[0, 1, 2, 3], [4, 5]]


def test_a_computed_graft_of_another_shape_or_place_is_refused(engine: Any) -> None:
    graft = DoubledSum()
    graft.compute = lambda own, tensor, seen: tensor[:1]  # type: ignore[method-assign]
    with pytest.raises(ProbeError, match="as in the forward pass"):
        forward(engine, graft)  # type: ignore[arg-type]
    graft = DoubledSum()
    graft.layer = 7  # type: ignore[misc]
    with pytest.raises(ProbeError, match="pass through that site"):
        forward(engine, graft)  # type: ignore[arg-type]
