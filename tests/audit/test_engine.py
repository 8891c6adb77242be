"""The shipped engine under audit: silent when healthy, and each planted fault of config or checkpoint named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from parity.audit import Audit, audit
from parity.audit.bindings import FOREIGN, TWICE, UNREAD
from parity.audit.recognize import CHANGED, FACTOR, NARROWED, NEITHER, OFFSET, ONES, ORDER, OTHER, SCALES, ZEROS
from parity.errors import RunnerError, UsageError
from parity.fingerprint import causes
from parity.invariance import Outcome
from parity_kernels.forward.runner import open_runner
from parity_oracles.recipes.runner import open_runner as open_oracle

Audited = Callable[..., Audit]
LAYER = "model.layers.1."


def outcomes(found: Audit) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in found.checks}


def only(found: Audit, name: str) -> Any:
    (finding,) = found.findings
    assert finding.name == name, finding.sentence
    assert found.exit_code == 1
    return finding


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    return {"weights": {name: lambda _, tensor: change(tensor)}}


@pytest.mark.parametrize("recipe", ["fp8_block", "bf16"])
def test_a_healthy_engine_is_silent(recipe: str, fp8_model: Path):
    found = audit(oracle=open_oracle(str(fp8_model), recipe=recipe), sut=open_runner(str(fp8_model), recipe=recipe))
    weights = 2 + 2 * (4 + 5 + 5 * 3)  # embedding, final norm; of each layer 4 projections, 5 others, 5 experts
    assert (found.findings, found.suspicions, found.exit_code) == ((), (), 0)
    assert {check.name: (check.outcome, check.compared) for check in found.checks} == {
        "config": (Outcome.HELD, 18), "recipe": (Outcome.HELD, 6), "tensors": (Outcome.HELD, weights),
        "scales": (Outcome.HELD, 2 * (4 + 15)),
    }  # fmt: skip


def test_an_untied_bf16_engine_is_silent_and_has_no_scales(bf16_model: Path, write_model: Callable[..., Path]):
    tensors = load_file(bf16_model / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    folder = str(write_model(tensors=tensors, tie_word_embeddings=False))
    found = audit(oracle=open_oracle(folder), sut=open_runner(folder))
    assert found.findings == ()
    assert outcomes(found)["scales"] is Outcome.NOT_RUN
    assert next(check.compared for check in found.checks if check.name == "tensors") == 51


@pytest.mark.parametrize(
    ("fault", "name", "cause"),
    [
        ("rope_theta_default", "rope_theta", causes.ROPE_THETA),
        ("rope_theta_default@3", "rope_theta", causes.ROPE_THETA),
        ("rope_yarn_forced", "rope_scaling", causes.ROPE_SCALING),
        ("moe_topk_not_renormalized", "norm_topk_prob", causes.WEIGHTS_NOT_NORMALIZED),
        ("quant_scales_ignored", SCALES, causes.SCALES_UNUSED),
        ("weight_never_bound", ONES, causes.TENSOR_UNBOUND),
        ("weight_never_bound@2", ONES, causes.TENSOR_UNBOUND),
    ],
)
def test_shipped_faults_are_named_and_their_names_not_told(fault: str, name: str, cause: str, audited: Audited):
    found = audited(fault)
    assert only(found, name).cause == cause
    assert fault.partition("@")[0] not in repr(found)


@pytest.mark.parametrize("fault", ["bf16_rounding_order", "reduction_order", "moe_router_order", "rms_eps_variant"])
def test_other_arithmetic_inside_an_operation_breaks_nothing(fault: str, audited: Audited):
    found = audited(fault)
    assert (found.findings, found.exit_code) == ((), 0)


def test_a_kernel_that_reads_something_else_is_for_a_replay(audited: Audited):
    found = audited("moe_scale_swapped")
    assert found.findings == ()
    assert {(one.name, one.cause) for one in found.suspicions} == {(ORDER, causes.BLOCK_SCALES)}


@pytest.mark.parametrize(
    ("value", "told"),
    [({"rms_eps": 1e-5}, 1e-5), ({"rope_theta": 1_000_100.0}, 1_000_100.0), ({"top_k": 3}, 3),
     ({"norm_topk_prob": False}, False), ({"max_positions": 256}, None)],
)  # fmt: skip
def test_a_changed_value_is_named_as_stated_and_as_told(value: Mapping[str, Any], told: Any, audited: Audited):
    ((name, stated),) = value.items()
    if told is None:  # fewer positions are no difference
        assert audited(config=value).exit_code == 0
        return
    finding = only(audited(config=value), name)
    assert finding.evidence["stated"] == stated
    assert finding.evidence["observed"] == [pytest.approx(told, rel=1e-4)]
    assert finding.layers == (0, 1)


def test_a_value_that_the_engine_does_not_state_is_seen_at_its_kernels(audited: Audited):
    def wrap(op: Any) -> Any:
        return lambda *args, scale, **rest: op(*args, scale=scale * 1.25, **rest)

    finding = only(audited(op="attention_decode", wrap=wrap), "softmax_scale")
    assert finding.cause == causes.SOFTMAX_SCALE
    assert finding.places == ("L00.attn.context", "L01.attn.context")


def test_a_weight_of_another_layer(fp8_model: Path, audited: Audited):
    other = load_file(fp8_model / "model.safetensors")["model.layers.0.input_layernorm.weight"]
    finding = only(audited(**changed(LAYER + "input_layernorm.weight", lambda _: other)), OTHER)
    assert finding.tensors == (LAYER + "input_layernorm.weight",)
    assert finding.found == "model.layers.0.input_layernorm.weight is read"
    assert finding.cause == causes.WRONG_INPUT
    assert (finding.layers, finding.places) == ((1,), ("L01.attn.norm",))
    assert "The loader counts 1 of 1 as bound." in finding.sentence


def test_two_tensors_swapped(fp8_model: Path, audited: Audited):
    tensors = load_file(fp8_model / "model.safetensors")
    q, k = (f"{LAYER}self_attn.{part}_norm.weight" for part in "qk")
    other = {q: tensors[k], k: tensors[q]}
    found = audited(weights={name: lambda name, _: other[name] for name in other})
    assert only(found, OTHER).tensors == (q, k)


def test_one_experts_weight_is_missing(audited: Audited):
    name = LAYER + "mlp.experts.3.up_proj.weight"
    finding = only(audited(**changed(name, torch.zeros_like)), ZEROS)
    assert (finding.tensors, finding.places) == ((name,), ("L01.moe.up expert 3",))


def test_a_tensor_used_twice(fp8_model: Path, audited: Audited):
    tensors = load_file(fp8_model / "model.safetensors")
    v = LAYER + "self_attn.v_proj.weight"
    k = {v + end: tensors[v.replace("v_proj", "k_proj") + end] for end in ("", "_scale_inv")}
    found = audited(weights={v + "*": lambda name, _: k[name]})
    assert {(one.check, one.name) for one in found.findings} == {("tensors", OTHER), ("scales", OTHER)}


@pytest.mark.parametrize(
    ("change", "name"),
    [(lambda s: s * 1.005, FACTOR), (lambda s: s.T.contiguous(), ORDER), (lambda s: s.flip(0), ORDER)],
)
def test_scales_that_are_not_the_checkpoints(change: Any, name: str, audited: Audited):
    finding = only(audited(**changed(LAYER + "mlp.experts.2.down_proj.weight_scale_inv", change)), name)
    assert (finding.check, finding.layers) == ("scales", (1,))


def blocks_rolled(tensor: torch.Tensor, height: int) -> torch.Tensor:
    codes = tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
    return codes.roll(-height, 0).view(tensor.dtype)


def test_a_weight_whose_rows_moved_takes_its_scales_along(audited: Audited):
    name = LAYER + "mlp.experts.2.down_proj.weight"
    found = audited(
        weights={
            name: lambda _, tensor: blocks_rolled(tensor, 128),
            name + "_scale_inv": lambda _, tensor: blocks_rolled(tensor, 1),
        }
    )
    assert {(one.check, one.name, one.cause) for one in found.findings} == {
        ("tensors", ORDER, causes.COLUMNS_PERMUTED), ("scales", ORDER, causes.COLUMNS_PERMUTED)
    }  # fmt: skip
    weight = next(one for one in found.findings if one.check == "tensors")
    assert "rows stand in the order" in weight.found


def test_rows_of_a_router_in_another_order(audited: Audited):
    finding = only(audited(**changed(LAYER + "mlp.gate.weight", lambda w: w[[0, 2, 1, *range(3, len(w))]])), ORDER)
    assert finding.cause == causes.COLUMNS_PERMUTED
    assert "its rows stand in the order 0, 2, 1, 3" in finding.found


def scaled_to_e4m3(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return ((values.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(values.dtype)


@pytest.mark.parametrize(
    ("change", "cause", "words"),
    [
        (lambda w: w.to(torch.float8_e4m3fn).to(w.dtype), causes.E4M3_GRID, "rounded to E4M3,"),
        (lambda w: w.to(torch.float8_e5m2).to(w.dtype), causes.NARROW_GRID, "rounded to E5M2,"),
        (lambda w: scaled_to_e4m3(w, w.float().abs().max() / 448), causes.E4M3_GRID, "a scale for the tensor"),
        (lambda w: scaled_to_e4m3(w, w.float().abs().amax(1, keepdim=True) / 448), causes.E4M3_GRID, "for each row"),
    ],
)
def test_a_weight_that_was_rounded_to_a_narrower_format(change: Any, cause: str, words: str, audited: Audited):
    finding = only(audited(**changed(LAYER + "mlp.gate.weight", change)), NARROWED)
    assert finding.cause == cause
    assert words in finding.found


def test_one_bit_of_one_element(audited: Audited):
    def flip(tensor: torch.Tensor) -> torch.Tensor:
        codes = tensor.clone().view(torch.uint8)
        codes[100, 77] ^= 1
        return codes.view(tensor.dtype)

    finding = only(audited(**changed(LAYER + "self_attn.o_proj.weight", flip)), CHANGED)
    assert (finding.layers, finding.cause) == ((1,), "")


def test_values_of_no_tensor_at_all(audited: Audited):
    def others(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)).to(tensor.dtype)

    assert only(audited(**changed(LAYER + "self_attn.q_norm.weight", others)), NEITHER).cause


def test_a_norm_weight_stored_without_its_one(audited: Audited):
    name = LAYER + "post_attention_layernorm.weight"
    finding = only(audited(**changed(name, lambda w: w - 1)), OFFSET)
    assert (finding.tensors, finding.cause) == ((name,), causes.CHANNEL_RATIO)


def test_a_dequantizing_loader_that_ignores_the_scales(fp8_model: Path):
    engine = open_runner(str(fp8_model), recipe="bf16", fault="quant_scales_ignored")
    finding = only(audit(oracle=open_oracle(str(fp8_model), recipe="bf16"), sut=engine), SCALES)
    assert (finding.check, len(finding.tensors)) == ("scales", 2 * (4 + 15))


def test_a_recipe_that_the_checkpoint_does_not_ask_for(fp8_model: Path, fp8_oracle: Any):
    found = audit(oracle=fp8_oracle, sut=open_runner(str(fp8_model), recipe="bf16"))
    assert {one.name for one in found.findings} >= {"recipe.weights", "recipe.activations"}
    assert outcomes(found)["tensors"] is outcomes(found)["scales"] is Outcome.HELD


def test_a_weight_read_twice_a_step(fp8_model: Path, fp8_oracle: Any, monkeypatch: pytest.MonkeyPatch):
    engine = open_runner(str(fp8_model))
    route = engine.engine._route

    def twice(normed: Any, index: int, weights: Any, probe: Any) -> Any:
        if index == 1:
            route(normed, index, weights, probe)
        return route(normed, index, weights, probe)

    monkeypatch.setattr(engine.engine, "_route", twice)
    assert only(audit(oracle=fp8_oracle, sut=engine), TWICE).tensors == (LAYER + "mlp.gate.weight",)


def test_a_bound_weight_that_no_operation_reads(fp8_model: Path, fp8_oracle: Any, monkeypatch: pytest.MonkeyPatch):
    engine = open_runner(str(fp8_model))
    norm = engine.engine._add_norm

    def none(x: Any, residual: Any, weight: Any, probe: Any, sums: Any, site: Any) -> Any:
        if site == ("final_norm", None):
            return residual, residual
        return norm(x, residual, weight, probe, sums, site)

    monkeypatch.setattr(engine.engine, "_add_norm", none)
    finding = only(audit(oracle=fp8_oracle, sut=engine), UNREAD)
    assert (finding.tensors, finding.places) == (("model.norm.weight",), ("final_norm",))
    assert finding.evidence["loader_says_bound"] == 1


def test_looking_changes_nothing(fp8_model: Path, prompt: Any):
    engine = open_runner(str(fp8_model))
    before, ops = engine.logits([prompt(9)]), dict(engine.engine.ops)
    engine.bindings()
    assert torch.equal(engine.logits([prompt(9)]), before)
    assert (engine.engine.ops, engine.engine.listener) == (ops, None)


def test_unlike_checkpoints_are_refused(fp8_model: Path, bf16_model: Path, fp8_oracle: Any):
    engine = open_runner(str(fp8_model))
    with pytest.raises(UsageError, match="one checkpoint on both sides"):
        audit(oracle=open_oracle(str(bf16_model)), sut=engine)
    with pytest.raises(UsageError, match="of the lineage"):
        audit(oracle=fp8_oracle, sut=engine, reference=bf16_model)


class Foreign:
    """A runner that shows as much of a real one as a test lets it."""

    def __init__(self, runner: Any, hyper: Mapping[str, Any], **methods: Any) -> None:
        self.info = replace(runner.describe(), name="foreign", hyper=hyper, can=frozenset({"forward"}))
        vars(self).update(methods)

    def describe(self) -> Any:
        return self.info


def test_what_an_engine_does_not_show_is_not_run(fp8_oracle: Any):
    found = audit(oracle=fp8_oracle, sut=Foreign(fp8_oracle, {"num_hidden_layers": 2}))
    assert outcomes(found)["tensors"] is outcomes(found)["scales"] is Outcome.NOT_RUN
    assert next(row for row in found.values if row.name == "rope_theta").verdict == "not stated"
    assert next(row for row in found.values if row.name == "layers").verdict == "equal"
    with pytest.raises(RunnerError, match="neither"):
        audit(oracle=fp8_oracle, sut=Foreign(fp8_oracle, {}))


def test_an_engine_that_only_shows_what_it_holds(fp8_model: Path, fp8_oracle: Any):
    held = load_file(fp8_model / "model.safetensors")
    engine = Foreign(fp8_oracle, {}, parameters=lambda: held)
    found = audit(oracle=fp8_oracle, sut=engine)
    assert found.findings == ()
    assert outcomes(found)["tensors"] is outcomes(found)["scales"] is Outcome.HELD
    assert outcomes(found)["config"] is Outcome.NOT_RUN
    scale = LAYER + "self_attn.q_proj.weight_scale_inv"
    del held[scale]
    held["model.layers.0.self_attn.q_proj.bias"] = torch.ones(3)
    found = audit(oracle=fp8_oracle, sut=engine)
    assert {(one.name, one.tensors) for one in found.findings} == {(SCALES, (scale,)), (FOREIGN, ())}


def test_a_foreign_dequantizer_may_round_once(fp8_oracle: Any):
    names = [tensor.name for tensor in fp8_oracle.stored() if tensor.scales is None]
    held = {name: fp8_oracle.checkpoint.weight(name).to(torch.float16) for name in names}
    engine = Foreign(fp8_oracle, {}, parameters=lambda: held)
    assert audit(oracle=fp8_oracle, sut=engine).findings == ()
    name = LAYER + "self_attn.q_proj.weight"
    held[name] = held[name] * 1.02
    assert only(audit(oracle=fp8_oracle, sut=engine), FACTOR).tensors == (name,)
