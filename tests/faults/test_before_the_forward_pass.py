"""Faults of config, checkpoint, prompt and sampler: reported as the engine really runs, and at work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.errors import CheckpointError, ConfigError, UsageError
from parity.faults import Fault, Prompt, shipped_fault, shipped_faults
from parity.runner import Request
from parity_kernels.faults.moe_scale_swapped import transposed_index
from parity_kernels.faults.rope_yarn_forced import yarn_frequencies
from parity_kernels.forward.runner import open_runner

PromptOf = Callable[..., Request]
MODEL = Path(__file__).resolve().parents[2] / "fixtures/models/moe-tiny"
CHAT = ({"role": "user", "content": "What is a noise floor?"},)
TOOL = {"type": "function", "function": {"name": "read_stage", "parameters": {"layer": "integer"}}}


def a_fault(**seams: Any) -> Fault:
    return Fault("test", "qwen3_moe", "", truth=None, cause="x", rung="config", **seams)


def test_effective_hyper_parameters_are_those_in_use(fp8_model: Path, prompt: PromptOf):
    healthy, theta, yarn = (
        open_runner(str(fp8_model), fault=name) for name in (None, "rope_theta_default", "rope_yarn_forced")
    )
    assert healthy.describe().hyper["rope_theta"] == 1e6
    assert "rope_scaling" not in healthy.describe().hyper
    assert theta.describe().hyper == {**healthy.describe().hyper, "rope_theta": 10_000.0}
    assert yarn.describe().hyper["rope_scaling"]["factor"] == 64
    expected = 10_000.0 ** -(torch.arange(16, dtype=torch.float64) / 16)
    assert torch.equal(theta.engine.inv_freq.cpu(), expected.float())


def test_config_changes_may_be_a_mapping_and_must_name_hyper_parameters(fp8_model: Path):
    assert open_runner(str(fp8_model), fault=a_fault(config={"rms_eps": 0.5})).describe().hyper["rms_eps"] == 0.5
    with pytest.raises(UsageError, match="rms_epsilon"):
        open_runner(str(fp8_model), fault=a_fault(config={"rms_epsilon": 0.5}))
    with pytest.raises(ConfigError, match="rms_epsilon"):
        open_runner(str(fp8_model), fault=a_fault(config=lambda hyper: {"rms_epsilon": hyper["rms_eps"]}))


def test_yarn_is_the_published_formula():
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    config = pytest.importorskip("transformers").Qwen3MoeConfig(
        head_dim=64,
        max_position_embeddings=512,
        rope_theta=1e6,
        rope_parameters={
            "rope_theta": 1e6, "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 512,
            "beta_fast": 32, "beta_slow": 1,
        },
    )  # fmt: skip
    theirs, _ = rope.ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    plain = (1e6 ** -(torch.arange(32, dtype=torch.float64) / 32)).float()
    ours = yarn_frequencies(plain, factor=16.0, original=512)
    # Both compute in at most a few fp32 operations.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    assert torch.equal(ours[:3], plain[:3])
    torch.testing.assert_close(ours[12:], plain[12:] / 16)


def test_transposed_indices_stay_inside_the_scales():
    scale = torch.arange(12.0).view(2, 2, 3)
    assert transposed_index(scale).tolist() == [[[0, 2, 4], [1, 3, 5]], [[6, 8, 10], [7, 9, 11]]]


def test_a_loader_that_binds_nothing_says_what_it_bound(fp8_model: Path):
    everything = open_runner(str(fp8_model)).describe().bound
    lost = open_runner(str(fp8_model), fault="weight_never_bound").describe().bound
    assert everything - lost == {"model.layers.1.post_attention_layernorm.weight"}
    unscaled = open_runner(str(fp8_model), fault="quant_scales_ignored")
    assert {name for name in everything if name.endswith("_scale_inv")} == everything - unscaled.describe().bound
    assert (unscaled.engine.weights.layers[0].q.scale == 1).all()
    assert len(unscaled.engine.weights.layers[0].gate_up.scale.unique()) == 1


def test_weights_change_by_pattern_by_name_and_in_one_instance(bf16_model: Path):
    healthy = open_runner(str(bf16_model)).engine.weights
    doubled = a_fault(weights={"*.v_proj.weight": lambda name, tensor: tensor * 2})
    zeroed = a_fault(weights=lambda name, tensor: tensor * 0 if name == "model.norm.weight" else tensor)
    for fault, pick, factor in ((doubled, lambda w: w.layers[1].v.data, 2), (zeroed, lambda w: w.final_norm, 0)):
        changed = open_runner(str(bf16_model), fault=fault).engine.weights
        assert torch.equal(pick(changed), pick(healthy) * factor)
        assert torch.equal(changed.layers[0].q.data, healthy.layers[0].q.data)
    with pytest.raises(CheckpointError, match="unbound"):
        open_runner(str(bf16_model), fault=a_fault(weights={"*.v_proj.weight": lambda name, tensor: None}))
    with pytest.raises(CheckpointError, match="shape"):
        open_runner(str(bf16_model), fault=a_fault(weights={"*.v_proj.weight": lambda name, tensor: tensor[:-1]}))


def test_a_healthy_chat_is_the_tokenizer_s_own(prompt: PromptOf):
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(MODEL)
    runner = open_runner(str(MODEL))
    conversations: tuple[tuple[Any, dict[str, Any]], ...] = (
        (CHAT, {}),
        (CHAT, {"enable_thinking": False}),
        (({"role": "system", "content": "Be brief."}, *CHAT), {"tools": (TOOL,)}),
    )
    for messages, options in conversations:
        theirs = tokenizer.apply_chat_template(
            list(messages),
            tools=list(options["tools"]) if "tools" in options else None,
            add_generation_prompt=True,
            return_dict=False,
            **{key: value for key, value in options.items() if key != "tools"},
        )
        assert list(runner.chat(messages, **options).ids) == theirs


PROMPTS = sorted(name for name, fault in shipped_faults().items() if fault.rung == "prompt")


def test_prompt_faults_feed_other_text_than_the_template():
    healthy = open_runner(str(MODEL))
    clean = healthy.tokenizer.decode(healthy.chat(CHAT).ids)
    texts = {}
    for name in PROMPTS:
        runner = open_runner(str(MODEL), fault=name)
        texts[name] = runner.tokenizer.decode(runner.chat(CHAT).ids)
        assert name not in repr(runner.describe())
    assert not {clean} & set(texts.values())
    assert len(set(texts.values())) == len(PROMPTS) == 5
    assert texts["template_think_injected"] == clean + "<think></think>"
    assert not texts["template_hand_rolled"].endswith("assistant\n")
    assert "<|im_start|>" not in texts["template_file_ignored"]
    assert texts["system_message_empty"] == "<|im_start|>system\nUser Context:\n<|im_end|>\n" + clean
    assert texts["tools_described_twice"].count("search") == 2


def test_a_prompt_of_ids_is_fed_changed_and_reported_as_fed(bf16_model: Path, prompt: PromptOf):
    def without_the_first(given: Prompt) -> Prompt:
        return replace(given, ids=None if given.ids is None else given.ids[1:])

    healthy, faulty = (open_runner(str(bf16_model), fault=f) for f in (None, a_fault(prompt=without_the_first)))
    request = prompt(9)
    shorter = Request(request.name, request.ids[1:])
    assert torch.equal(faulty.logits([request]), healthy.logits([shorter]))
    assert faulty.forward([request]).run.requests == (request.ids[1:],)
    assert faulty.generate(request, max_new_tokens=3) == healthy.generate(shorter, max_new_tokens=3)


def most_likely(runner: Any, request: Request) -> int:
    return int(runner.logits([request])[-1].argmax())


def test_the_greedy_fast_path_chooses_what_is_banned(bf16_model: Path, prompt: PromptOf):
    request = prompt(9)
    token = most_likely(open_runner(str(bf16_model)), request)
    shipped = shipped_fault("banned_token_greedy")
    skipped = replace(shipped, engine={"suppress_tokens": (token,)})
    honoured = replace(skipped, sampler=None)
    for fault, banned in ((skipped, True), (honoured, False)):
        runner = open_runner(str(bf16_model), fault=fault)
        assert runner.describe().sampler["suppress_tokens"] == [token]
        assert (runner.generate(request, max_new_tokens=1).ids == (token,)) is banned


def test_bans_of_the_model_folder_are_honoured(write_model: Callable[..., Path], prompt: PromptOf):
    folder = write_model()
    token = most_likely(open_runner(str(folder)), prompt(9))
    (folder / "generation_config.json").write_text(json.dumps({"suppress_tokens": [token]}))
    assert token not in open_runner(str(folder)).generate(prompt(9), max_new_tokens=4).ids
    (folder / "generation_config.json").write_text(json.dumps({"suppress_tokens": [80]}))
    with pytest.raises(ConfigError, match="suppress_tokens"):
        open_runner(str(folder))


def test_a_presence_penalty_counts_a_token_once_and_no_prompt(bf16_model: Path, prompt: PromptOf):
    request = prompt(9)
    plain = open_runner(str(bf16_model))
    harsh = open_runner(str(bf16_model), fault=a_fault(engine={"presence_penalty": 1e6}))
    made = harsh.generate(request, max_new_tokens=8).ids
    assert len(set(made)) == 8, "no token twice under a penalty that nothing outweighs"
    assert made[0] == plain.generate(request, max_new_tokens=1).ids[0]
    shipped = open_runner(str(bf16_model), fault="penalty_cliff")
    stated = shipped.describe().sampler
    assert (stated["greedy"], stated["suppress_tokens"], stated["presence_penalty"]) == (True, [], 1.5)


def test_a_sampler_is_told_what_was_chosen(bf16_model: Path, prompt: PromptOf):
    from parity.faults import where

    seen = []

    def second(logits: torch.Tensor) -> int:
        seen.append((where().step, where().prompt, len(where().ids)))
        return int(logits.topk(2).indices[1])

    made = open_runner(str(bf16_model), fault=a_fault(sampler=second)).generate(prompt(9), max_new_tokens=3)
    assert seen == [(0, 9, 9), (1, 9, 10), (2, 9, 11)]
    forced = open_runner(str(bf16_model)).logits([Request("forced", (*prompt(9).ids, *made.ids))])
    assert tuple(forced[8:-1].topk(2).indices[:, 1].tolist()) == made.ids


def test_a_whole_runner_may_be_wrapped(bf16_model: Path, prompt: PromptOf):
    class Silent:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def describe(self) -> Mapping[str, Any]:
            return {}

    runner = open_runner(str(bf16_model), fault=a_fault(runner=Silent))
    assert runner.describe() == {}
    assert len(runner.logits([prompt(5)])) == 5
