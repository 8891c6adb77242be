"""Does the HF oracle run HF's own model, show every stage of it without changing a bit, and take grafts anywhere?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from parity.errors import CheckpointError, ConfigError, RunnerError, UsageError, ValueRangeError
from parity.runner import CapturePlan, Graft, Request, Schedule, open_runner
from parity.stages import QWEN3_MOE
from parity.trace import Trace
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.hf import binding, qwen3_moe
from parity_oracles.hf.runner import HfRunner
from parity_oracles.hf.runner import open_runner as open_hf

SITES = list(QWEN3_MOE.sites(2))
ALL = CapturePlan()
Stages = dict[tuple[int | None, str], torch.Tensor]


@pytest.fixture(scope="module")
def hf(fp8_folder: Path) -> HfRunner:
    return open_hf(str(fp8_folder))


@pytest.fixture(scope="module")
def trace(hf: HfRunner, prompt: Request) -> Trace:
    return hf.forward([prompt], capture=ALL)


@pytest.fixture(scope="module")
def seen(trace: Trace, stages_of: Callable[..., Stages]) -> Stages:
    return stages_of(trace)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_hfs_model(dtype: str, bf16_folder: Path, prompt: Request) -> None:
    """On a checkpoint that HF loads by itself the logits are HF's, bit for bit."""
    theirs = AutoModelForCausalLM.from_pretrained(
        bf16_folder, dtype=getattr(torch, dtype), attn_implementation="eager", experts_implementation="eager"
    )
    with torch.no_grad():
        expected = theirs(torch.tensor([prompt.ids])).logits[0]
    assert torch.equal(open_hf(str(bf16_folder), dtype=dtype).logits([prompt]), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_taps_change_no_bit(dtype: str, fp8_folder: Path, prompt: Request) -> None:
    runner, schedule = open_hf(str(fp8_folder), dtype=dtype), Schedule(decode=4)
    off = runner.logits([prompt], schedule=schedule)
    trace = runner.forward([prompt], capture=ALL, schedule=schedule)
    assert torch.equal(off, torch.cat([trace.tensor(capture) for capture in trace.select(stage="logits")]))
    # And when the taps are gone again, HF's own code runs as before.
    assert torch.equal(off, runner.logits([prompt], schedule=schedule))


def test_every_stage_is_shown_once_with_its_axes(trace: Trace, prompt: Request) -> None:
    assert trace.complete
    assert sorted(map(str, ((c.layer, c.stage) for c in trace.captures))) == sorted(
        str((layer, stage.name)) for layer, stage in SITES
    )
    sizes = {"T": 45, "D": 160, "H": 6, "G": 2, "K": 32, "E": 6, "S": 2, "R": 90, "F": 136, "V": 211}
    for capture in trace.captures:
        assert capture.shape == tuple(sizes[axis] for axis in capture.axes), capture.name
    assert trace.run.requests == (prompt.ids,)
    assert set(trace.run.declared) == {(layer, stage.name) for layer, stage in SITES}


def test_expert_rows_are_the_chosen_experts(trace: Trace, seen: Stages) -> None:
    capture = trace.select(stage="moe.down", layer=1)[0]
    rows = capture.rows
    assert rows.slot is not None
    assert rows.expert is not None
    assert (seen[1, "moe.topk_ids"].numpy()[rows.position, rows.slot] == rows.expert).all()
    assert capture.geometry["expert_offsets"][-1] == 90
    # Planted: HF's order is by expert, so that taking it for token order would be noticed.
    assert (rows.expert[1:] >= rows.expert[:-1]).all()
    assert (rows.position[1:] < rows.position[:-1]).any()


def test_stages_are_those_of_the_model(hf: HfRunner, seen: Stages) -> None:
    """Relations that hold between stages in HF's own arithmetic, bit for bit, so that no tap sits one place off."""
    layer = hf.model.model.layers[1]
    assert torch.equal(seen[1, "resid.mid"], seen[0, "resid.out"] + seen[1, "attn.out"])
    assert torch.equal(seen[1, "resid.out"], seen[1, "resid.mid"] + seen[1, "moe.experts"])
    assert torch.equal(seen[1, "mlp.norm"], layer.post_attention_layernorm(seen[1, "resid.mid"]))
    assert torch.equal(seen[None, "final_norm"], hf.model.model.norm(seen[1, "resid.out"]))
    assert torch.equal(seen[1, "attn.q_norm"], layer.self_attn.q_norm(seen[1, "attn.q"]))
    # Position 0 is not rotated; position 1 is.
    assert torch.equal(seen[1, "attn.k_rope"][0], seen[1, "attn.k_norm"][0])
    assert not torch.equal(seen[1, "attn.k_rope"][1], seen[1, "attn.k_norm"][1])


def test_it_is_causal(hf: HfRunner, prompt: Request) -> None:
    """A mask that is not registered beside the attention core makes the model silently see the future."""
    changed = replace(prompt, ids=(*prompt.ids[:-1], (prompt.ids[-1] + 1) % 211))
    first, second = (hf.forward([request], capture=CapturePlan(stages=("logits",))) for request in (prompt, changed))
    a, b = first.tensor(first.captures[0]), second.tensor(second.captures[0])
    # Another last id sends that row to other experts, whose other rows BLAS may then sum in another order: units in
    # the last place of fp32. Seeing one id of the future moves logits of this size by tenths.
    assert (a[:-1] - b[:-1]).abs().max() < 1e-4
    assert (a[-1] - b[-1]).abs().max() > 0.1


def test_decode_goes_through_the_cache(hf: HfRunner, trace: Trace, seen: Stages, prompt: Request) -> None:
    stepped = hf.forward([prompt], capture=ALL, schedule=Schedule(decode=5))
    logits = stepped.select(stage="logits")
    assert [(c.phase, c.step, len(c.rows)) for c in logits] == [
        ("prefill", 0, 40), *(("decode", step, 1) for step in range(1, 6))
    ]  # fmt: skip
    assert [int(c.rows.position[0]) for c in logits[1:]] == [40, 41, 42, 43, 44]
    whole = torch.cat([stepped.tensor(c) for c in logits])
    # Other shapes of the same fp32 products: 2 layers of about 8 roundings of sqrt(160) * 2^-24 each, and cancellation.
    error = (whole - seen[None, "logits"]).norm() / seen[None, "logits"].norm()
    assert error < 2 * 8 * 160**0.5 * 2**-24


def test_requests_are_run_one_by_one(hf: HfRunner, prompt: Request) -> None:
    other = Request("other", prompt.ids[7:30])
    together = hf.forward([prompt, other], capture=CapturePlan(stages=("logits", "moe.up"), tokens="last"))
    alone = hf.forward([other], capture=CapturePlan(stages=("logits",), tokens="last"))
    last = [c for c in together.select(stage="logits") if c.rows.request[0] == 1]
    assert [len(c.rows) for c in last] == [1]
    assert torch.equal(together.tensor(last[0]), alone.tensor(alone.captures[0]))


@pytest.mark.parametrize("stage", [stage.name for _, stage in QWEN3_MOE.sites(1)])
def test_grafts_enter_the_forward_pass(
    stage: str, hf: HfRunner, trace: Trace, seen: Stages, prompt: Request, stages_of: Callable[..., Stages],
    replayed: Callable[..., torch.Tensor],
) -> None:  # fmt: skip
    """At every stage: the model's own tensor changes no bit; another one is what the stages after it compute from."""
    layer = 0 if QWEN3_MOE.stage(stage) in QWEN3_MOE.layer else None
    capture = trace.select(stage=stage, layer=layer)[0]
    own = trace.tensor(capture)
    sham = hf.forward([prompt], capture=CapturePlan(stages=("logits",)), graft=[Graft(layer, stage, own, capture.rows)])
    assert torch.equal(sham.tensor(sham.captures[0]), seen[None, "logits"])

    other = (own + 1) % 6 if stage == "moe.topk_ids" else own * 1.25
    grafted = stages_of(hf.forward([prompt], capture=ALL, graft=[Graft(layer, stage, other, capture.rows)]))
    assert not torch.equal(grafted[None, "logits"], seen[None, "logits"])
    order = [(at, node.name) for at, node in SITES]
    for at, name in order:
        if (at, name) == (layer, stage):
            continue
        again = replayed(hf, grafted, at, name, "fp32", prompt.ids)
        expected = grafted[at, name]
        if name == "moe.topk_ids":
            assert torch.equal(again, expected), f"{name} after a graft at {stage}"
        else:
            error = (again - expected).norm() / expected.norm()
            # What two fp32 orders of the same stage differ by; see test_recipe_stages.py.
            assert error < 4e-6, f"{name} of layer {at} was not computed from the graft at {stage}: {error:.2g}"


def test_grafted_experts_get_the_oracles_own_weights(
    hf: HfRunner, trace: Trace, seen: Stages, prompt: Request, stages_of: Callable[..., Stages]
) -> None:
    capture = trace.select(stage="moe.topk_ids", layer=1)[0]
    ids = (trace.tensor(capture) + 1) % 6
    grafted = stages_of(hf.forward([prompt], capture=ALL, graft=[Graft(1, "moe.topk_ids", ids, capture.rows)]))
    share = seen[1, "moe.router_logits"].softmax(-1).gather(1, ids.long())
    expected = share / share.sum(-1, keepdim=True)
    # One softmax and one division on both sides: a few units in the last place of fp32.
    torch.testing.assert_close(grafted[1, "moe.topk_weights"], expected, rtol=4 * 2**-23, atol=0)
    with pytest.raises(ValueRangeError, match=r"expert ids 0\.\.5"):
        hf.forward([prompt], capture=ALL, graft=[Graft(1, "moe.topk_ids", ids + 1, capture.rows)])
    # And the taps are gone after the failure.
    assert torch.equal(hf.logits([prompt]), seen[None, "logits"])


def test_some_rows_of_some_experts(hf: HfRunner, trace: Trace, seen: Stages, prompt: Request) -> None:
    capture = trace.select(stage="moe.down", layer=1)[0]
    assert capture.rows.expert is not None
    pick = capture.rows.expert == capture.rows.expert[0]
    rows = capture.rows.take(pick)
    zero = torch.zeros(len(rows), 160)
    result = hf.forward([prompt], capture=CapturePlan(stages=("resid.out",), layers=(1,)),
                        graft=[Graft(1, "moe.down", zero, rows)])  # fmt: skip
    changed = (result.tensor(result.captures[0]) != seen[1, "resid.out"]).any(1).nonzero().flatten().tolist()
    assert changed == sorted(set(rows.position.tolist()))


def test_greedy_continuation(hf: HfRunner, prompt: Request) -> None:
    new = hf.generate(prompt, max_new_tokens=6)
    full = Request("full", (*prompt.ids, *new.ids))
    assert new.text is None
    assert hf.logits([full])[len(prompt.ids) - 1 : -1].argmax(-1).tolist() == list(new.ids)
    assert hf.generate(prompt, max_new_tokens=0).ids == ()
    assert hf.generate(prompt, max_new_tokens=3, schedule=Schedule(decode=4)).ids == new.ids[:3]


def test_it_says_what_it_is(hf: HfRunner, fp8_folder: Path) -> None:
    info = hf.describe()
    assert (info.name, info.family, info.layers) == ("hf", "qwen3_moe", 2)
    assert info.hyper == read_checkpoint(fp8_folder).hyper.implied()
    assert (info.hyper["rope_theta"], info.hyper["top_k"], info.hyper["quantization"]) == (1e4, 2, "fp8_block")
    assert info.recipe.name == "fp32"
    assert info.stages == tuple(stage.name for _, stage in QWEN3_MOE.sites(1))
    assert "chunk" not in info.can
    assert isinstance(open_runner(f"hf:{fp8_folder}"), HfRunner)


def test_what_it_cannot_do_is_refused(hf: HfRunner, fp8_folder: Path, prompt: Request) -> None:
    with pytest.raises(RunnerError, match="the prompt in one piece"):
        hf.forward([prompt], capture=ALL, schedule=Schedule(chunk=16))
    with pytest.raises(RunnerError, match="cached=3"):
        hf.forward([replace(prompt, cached=3)], capture=ALL)
    with pytest.raises(UsageError, match="among them 211"):
        hf.forward([replace(prompt, ids=(1, 211))], capture=ALL)
    with pytest.raises(UsageError, match="more than 45 and at most 2048 token ids"):
        hf.forward([prompt], capture=ALL, schedule=Schedule(decode=45))
    with pytest.raises(UsageError, match="dtype one of float32, bfloat16"):
        open_hf(str(fp8_folder), dtype="float16")
    with pytest.raises(UsageError, match="quantized 'dequantize'"):
        open_hf(str(fp8_folder), quantized="hf")


Change = Callable[[dict[str, torch.Tensor]], Any]
BINDINGS: dict[str, tuple[Change, str]] = {
    "missing": (lambda w: w.pop("model.layers.1.mlp.experts.down_proj"), r"not bound: \['model.layers.1.mlp.experts"),
    "extra": (lambda w: w.update(more=torch.zeros(1)), r"no such parameter: \['more'\]"),
    "shape": (lambda w: w.update({"model.norm.weight": torch.ones(3)}), r"other shape: \['model.norm.weight'\]"),
}


@pytest.mark.parametrize("defect", BINDINGS)
def test_every_parameter_is_bound_once(defect: str, fp8_folder: Path) -> None:
    change, message = BINDINGS[defect]

    def broken(checkpoint: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        weights = qwen3_moe.parameters(checkpoint, dtype)
        change(weights)
        return weights

    with pytest.raises(CheckpointError, match=message):
        binding.build_model(
            read_checkpoint(fp8_folder), torch.float32, parameters=broken,
            effective_hyper=qwen3_moe.effective_hyper,
        )  # fmt: skip


def test_other_effective_hyper_parameters_are_an_error(fp8_folder: Path) -> None:
    def other(model: Any, checkpoint: Any) -> Any:
        return replace(qwen3_moe.effective_hyper(model, checkpoint), rope_theta=5e6, top_k=3)

    with pytest.raises(ConfigError, match=r"expected top_k=2, rope_theta=10000.0; found top_k=3, rope_theta=5000000.0"):
        binding.build_model(
            read_checkpoint(fp8_folder), torch.float32, parameters=qwen3_moe.parameters, effective_hyper=other
        )
