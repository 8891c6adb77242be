"""Do the three grafts confirm a true finding, and refute a false one?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.errors import UsageError
from parity.floor import Floor
from parity.graft.effect import agreement
from parity.ladder import Opening, Proof, prove, sites_of, sweep
from parity.ladder.prove import Site
from parity.ladder.replay_graft import replaced_spans
from parity.records import Finding
from parity.runner import CapturePlan, Request
from parity.stages import QWEN3_MOE
from parity_kernels.forward.runner import TritonRunner
from parity_kernels.forward.runner import open_runner as open_engine

Try = Callable[..., Proof]


@pytest.fixture
def attempt(fp8_model: Path, floor: Floor, oracle: Any, request_160: Request) -> Try:
    """attempt(sites, change=..., fault=...): plant, capture, and try the claim that the error is added at `sites`."""

    def run(
        sites: list[Site], *, change: Callable[[TritonRunner], None] | None = None, fault: str | None = None
    ) -> Proof:
        engine = open_engine(str(fp8_model), fault=fault)
        if change is not None:
            change(engine)
        trace = engine.forward([request_160], capture=CapturePlan())
        texts = tuple(runner.generate(request_160, max_new_tokens=4) for runner in (engine, oracle))
        return prove(
            engine,
            oracle=oracle,
            emulation=Opening(f"recipe:{fp8_model}"),
            request=request_160,
            trace=trace,
            sites=sites,
            chained=sweep(oracle, trace, floor=floor),
            floor=floor,
            generations=(texts[0], texts[1]),
        )

    return run


def scale_rows(name: str, calls: set[int], factor: float) -> Callable[[TritonRunner], None]:
    """Multiply what op `name` returns by `factor` in the calls numbered so, counted within each forward pass."""

    def change(runner: TritonRunner) -> None:
        op, layers = runner.engine.ops[name], runner.config.layers
        count = [0]

        def scaled(*args: Any, **kwargs: Any) -> Any:
            result = op(*args, **kwargs)
            number, count[0] = count[0] % (2 * layers), count[0] + 1
            return result.mul_(factor) if number in calls else result

        runner.engine.ops[name] = scaled

    return change


def test_the_incident_is_proved_in_all_its_layers(attempt: Try):
    sites: list[Site] = [(layer, stage) for layer in (0, 1) for stage in ("moe.gate", "moe.up")]
    proof = attempt(sites, fault="moe_tile_truncation")
    assert proof.sham_changed == 0
    assert set(proof.added) == {"L00.moe.gate", "L01.moe.gate", "L00.moe.up", "L01.moe.up"}
    assert min(score for score in proof.added.values() if score is not None) > 1
    assert proof.cleared["L00.moe.gate"][0] > 1  # type: ignore[operator]
    # The capped down projection loses the same rows, which shows only once they are not zero already.
    assert set(proof.unmasked) == {"L00.moe.down", "L01.moe.down"}
    assert proof.removed, proof.left
    assert proof.proved
    assert proof.effect.changed > 0
    assert proof.text_after is not None
    assert "changes no bit" in proof.sentence()


def test_half_a_finding_is_completed_and_says_so(attempt: Try):
    proof = attempt([(0, "moe.gate"), (0, "moe.up")], fault="moe_tile_truncation")
    assert proof.stays
    assert set(proof.sites) == {"L00.moe.gate", "L00.moe.up"}
    # What was not claimed is unmasked, and named apart from what was.
    assert {"L01.moe.gate", "L01.moe.up"} <= set(proof.unmasked)
    assert proof.removed


def test_an_embedding_is_proved_and_so_is_its_continuation(attempt: Try):
    def next_row(runner: TritonRunner) -> None:
        embed = runner.engine.ops["embed"]
        runner.engine.ops["embed"] = lambda ids, weight, **more: embed((ids + 1) % len(weight), weight, **more)

    proof = attempt([(None, "embed.out")], change=next_row)
    assert proof.proved, proof.sentence()
    assert proof.text_after is not None
    assert proof.text_after[0] == proof.text_after[1]


def test_an_inherited_error_is_not_proved_where_it_only_shows(attempt: Try):
    # The second layer's down projection is scaled; its residual shows it and adds nothing of its own.
    proof = attempt([(1, "resid.out")], change=scale_rows("grouped_gemm_fp8", {3}, 1.5))
    assert not proof.stays
    assert not proof.proved
    assert "does not leave the error" in proof.sentence()


def test_a_site_inside_a_kernel_is_replaced_where_the_kernel_ends(attempt: Try):
    def no_weights(runner: TritonRunner) -> None:
        op, layers = runner.engine.ops["qk_norm_rope"], runner.config.layers
        calls = [0]

        def changed(q: Any, k: Any, q_weight: Any, k_weight: Any, *rest: Any, **more: Any) -> Any:
            number, calls[0] = calls[0] % layers, calls[0] + 1
            return op(q, k, q_weight * 1.3 if number == 1 else q_weight, k_weight, *rest, **more)

        runner.engine.ops["qk_norm_rope"] = changed

    proof = attempt([(1, "attn.q_norm")], change=no_weights)
    assert proof.sham_changed == 0
    assert proof.stays, proof.added
    assert proof.removed, proof.left
    assert not proof.unmasked, "the rotation only carries what the norm inside its kernel did"
    assert attempt([(0, "attn.q_norm")], change=no_weights).proved is False


def in_one_expert(change_rows: Callable[[torch.Tensor], torch.Tensor], layer: int, expert: int = 1):
    """What the down projection of one expert of a layer puts out, changed."""

    def change(runner: TritonRunner) -> None:
        op, layers, count = runner.engine.ops["grouped_gemm_fp8"], runner.config.layers, [0]

        def wrong(*args: Any, expert_offsets: torch.Tensor, **more: Any) -> torch.Tensor:
            result = op(*args, expert_offsets=expert_offsets, **more)
            number, count[0] = count[0] % (2 * layers), count[0] + 1
            if number == 2 * layer + 1:
                rows = slice(int(expert_offsets[expert]), int(expert_offsets[expert + 1]))
                result[rows] = change_rows(result[rows].float()).to(result.dtype)
            return result

        runner.engine.ops["grouped_gemm_fp8"] = wrong

    return change


@pytest.mark.parametrize(("layer", "factor"), [(1, 1.01), (0, 0.99)])
def test_a_fault_below_every_chained_floor_is_proved(attempt: Try, layer: int, factor: float):
    proof = attempt([(layer, "moe.down")], change=in_one_expert(lambda rows: rows * factor, layer))
    assert not proof.cleared, "no chained floor sees 1 % of one expert"
    assert proof.silent is not None
    assert proof.silent.holds, proof.silent
    assert proof.proved
    said = proof.silent.direction[f"L0{layer}.moe.down"]
    assert said is not None
    assert ("along" if factor > 1 else "against") in said
    assert "which no chained floor sees" in proof.sentence()


def jitter(rows: torch.Tensor) -> torch.Tensor:
    """A stand-in for an order of sums that the emulation does not have: a unit of bf16, either way."""
    sign = torch.randint(0, 2, rows.shape, generator=torch.Generator().manual_seed(0)).float() * 2 - 1
    return rows * (1 + 2.0**-8 * sign.to(rows.device))


@pytest.mark.parametrize("control", [None, "reduction_order", "bf16_rounding_order", in_one_expert(jitter, 1)])
def test_no_control_is_proved_for_want_of_a_symptom(attempt: Try, control: Any):
    plant = {"change": control} if callable(control) else {"fault": control}
    proof = attempt([(1, "moe.down")], **plant)
    assert not proof.cleared
    assert not proof.proved
    assert proof.silent is not None
    assert not proof.silent.holds
    # A unit of bf16 either way is more error indeed, if less than its gate; the others have no direction at all.
    assert callable(control) or proof.silent.direction == {"L01.moe.down": None}


def test_one_fault_of_two_does_not_prove_the_other_away(attempt: Try):
    def both(runner: TritonRunner) -> None:
        in_one_expert(lambda rows: rows * 1.01, 1)(runner)
        in_one_expert(lambda rows: rows * 1.01, 0, expert=3)(runner)

    proof = attempt([(0, "attn.out")], change=both)
    assert not proof.proved
    assert "L01.moe.down" in proof.unmasked


def test_weights_not_renormalized_are_proved_though_oracle_inputs_move_tokens(attempt: Try):
    """With other inputs some tokens choose other experts; those that do not must keep the kernel's own weights."""
    sites: list[Site] = [(layer, "moe.topk_weights") for layer in (0, 1)]
    proof = attempt(sites, fault="moe_topk_not_renormalized")
    assert proof.stays, proof.added
    assert proof.proved


def test_a_site_that_only_inherits_is_not_confirmed_beside_one_that_adds(attempt: Try):
    proof = attempt([(1, "moe.down"), (1, "moe.experts")], change=scale_rows("grouped_gemm_fp8", {3}, 1.5))
    assert proof.proved
    assert proof.unconfirmed == ("L01.moe.experts",)


def test_an_engine_that_does_not_repeat_itself_is_pinned_or_not_proved(attempt: Try):
    def remembers(runner: TritonRunner) -> None:
        op, before = runner.engine.ops["combine"], [torch.zeros(1)]

        def stale(*args: Any, **kwargs: Any) -> Any:
            result = op(*args, **kwargs)
            result[-1] += before[0].mean().to(result)
            before[0] = result.clone().float() + 1
            return result

        runner.engine.ops["combine"] = stale

    proof = attempt([(0, "moe.experts"), (1, "moe.experts")], change=remembers)
    assert not proof.repeats
    assert proof.sham_changed != 0 or "does not repeat itself" in proof.sentence()


def test_where_grafts_go_and_what_they_span():
    inner = {"attn.q_norm", "attn.k_norm", "moe.router_logits"}
    spans = replaced_spans({"attn.q_norm"}, graph=QWEN3_MOE, layer=0, inner=inner)
    assert spans == {"attn.q_rope": ("attn.q_norm", "attn.q_rope")}
    spans = replaced_spans({"moe.router_logits", "moe.down"}, graph=QWEN3_MOE, layer=3, inner=inner)
    assert spans == {
        "moe.topk_ids": ("moe.router_logits", "moe.topk_ids"),
        "moe.topk_weights": ("moe.router_logits", "moe.topk_weights"),
        "moe.down": ("moe.down",),
    }
    assert replaced_spans({"logits"}, graph=QWEN3_MOE, layer=None, inner=inner) == {"logits": ("logits",)}


def test_sites_come_from_the_finding():
    finding = Finding("fault", "isolated replay", (0, 2), "moe.gate", evidence={"also_adds_error": {"moe.up": [0]}})
    assert sites_of(finding) == [(0, "moe.gate"), (2, "moe.gate"), (0, "moe.up")]
    assert sites_of(Finding("fault", "x", (), "final_norm")) == [(None, "final_norm")]
    with pytest.raises(UsageError, match="nothing to prove"):
        sites_of(Finding("clean", "x"))


def test_a_runner_that_cannot_graft_is_refused(oracle: Any, floor: Floor, request_160: Request):
    class Closed:
        def describe(self) -> Any:
            from dataclasses import replace

            return replace(oracle.describe(), can=frozenset({"forward"}))

    with pytest.raises(UsageError, match="runner that can graft"):
        prove(
            Closed(), oracle=oracle, emulation=Opening("recipe:x"), request=request_160, trace=None,  # type: ignore[arg-type]
            sites=[], chained=None, floor=floor,  # type: ignore[arg-type]
        )  # fmt: skip


def test_agreement_counts_from_the_start():
    assert agreement((1, 2, 3), (1, 2, 4)) == 2
    assert agreement((1, 2), (1, 2, 4)) == 2
    assert agreement((), (1,)) == 0


class Unrouted:
    """An engine whose choice of experts nobody can replace, as vLLM's."""

    def __init__(self, engine: TritonRunner) -> None:
        self.engine = engine

    def describe(self) -> Any:
        info = self.engine.describe()
        return replace(info, inner=info.inner | {"moe.topk_ids"})

    def forward(self, *args: Any, graft: Any = (), **more: Any) -> Any:
        assert not {one.stage for one in graft} & {"moe.topk_ids"}
        return self.engine.forward(*args, graft=graft, **more)


def test_an_engine_that_lets_nobody_choose_its_experts_is_proved_too(
    fp8_model: Path, floor: Floor, oracle: Any, request_160: Request
):
    engine = open_engine(str(fp8_model))
    in_one_expert(lambda rows: rows * 1.5, 1)(engine)
    trace = engine.forward([request_160], capture=CapturePlan())
    proof = prove(
        Unrouted(engine), oracle=oracle, emulation=Opening(f"recipe:{fp8_model}"), request=request_160, trace=trace,
        sites=[(1, "moe.down")], chained=sweep(oracle, trace, floor=floor), floor=floor,
    )  # fmt: skip
    assert proof.cleared
    assert proof.proved, proof.sentence()
