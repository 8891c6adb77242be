"""What a checkpoint may not do: lack a tensor, bring one too many, lie about shapes, dtypes, scales or settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.errors import CheckpointError, ConfigError
from parity_kernels.forward.arena import Arena
from parity_kernels.forward.config import read_config
from parity_kernels.forward.weights import load_weights

Writer = Callable[..., Path]
CPU = torch.device("cpu")
GATE = "model.layers.1.mlp.experts.3.gate_proj.weight"


def load(folder: Path, recipe: str = "bf16"):
    return load_weights(folder, read_config(folder), recipe=recipe, device=CPU)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_fp8_weights_and_their_dequantization_agree_block_by_block(write_model: Writer):
    folder = write_model(fp8=True)
    fp8, bf16 = load(folder, "fp8_block"), load(folder, "bf16")
    for quantized, plain in ((fp8.layers[0].o, bf16.layers[0].o), (fp8.layers[1].gate_up, bf16.layers[1].gate_up)):
        assert quantized.scale is not None
        values, scale = quantized.data.float(), quantized.scale
        for row, column in ((0, 0), (127, 127), (128, 0), (135, 130), (0, 128)):
            if row < values.shape[-2] and column < values.shape[-1]:
                wide = values[..., row, column] * scale[..., row // 128, column // 128]
                assert torch.equal(wide.bfloat16(), plain.data[..., row, column])


def test_shards_are_read_through_their_index(write_model: Writer):
    folder = write_model()
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert torch.equal(load(folder).final_norm, tensors["model.norm.weight"])
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"part-1\.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(GATE), "no such tensor"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra"),
        (lambda t: t.update({GATE: t[GATE][:-1].contiguous()}), "shape"),
        (lambda t: t.update({GATE: t[GATE].half()}), "float16"),
        (lambda t: t.update({"model.norm.weight": t["model.norm.weight"].float()}), "F32"),
        (lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}), "lm_head"),
    ],
)
def test_a_wrong_tensor_is_named(write_model: Writer, change: Callable, said: str):
    folder = edit(write_model(), change)
    with pytest.raises(CheckpointError, match=said):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop(GATE + "_scale_inv"),
        lambda t: t.update({GATE + "_scale_inv": t[GATE + "_scale_inv"].T[:1].contiguous()}),
        lambda t: t.update({"model.layers.0.mlp.gate.weight_scale_inv": torch.ones(1, 2)}),
        lambda t: t.update({GATE: t[GATE].to(torch.bfloat16)}),
    ],
    ids=["missing", "wrong grid", "extra", "left over"],
)
def test_every_scale_is_consumed(write_model: Writer, change: Callable):
    folder = edit(write_model(fp8=True), change)
    with pytest.raises(CheckpointError, match=r"scale_inv|like the other experts"):
        load(folder, "fp8_block")


def test_a_tied_head_written_twice_is_accepted_when_it_is_the_same(write_model: Writer):
    folder = edit(write_model(), lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    weights = load(folder)
    assert weights.head is weights.embed


def test_an_untied_head_is_loaded(write_model: Writer):
    folder = write_model(tie_word_embeddings=False)
    edit(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] * 2}))
    weights = load(folder)
    assert torch.equal(weights.head, weights.embed * 2)


def test_recipe_and_checkpoint_must_fit(write_model: Writer):
    with pytest.raises(CheckpointError, match="fp8_block"):
        load(write_model(), "fp8_block")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"rope_theta": None}, "rope_theta"),
        ({"norm_topk_prob": None}, "norm_topk_prob"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "yarn"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"model_type": "qwen3"}, "model_type"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}, "weight_block_size"),
    ],
)
def test_settings_without_an_implementation_are_refused(write_model: Writer, setting: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        read_config(write_model(**setting))


def test_rope_theta_is_read_from_either_place(write_model: Writer):
    folder = write_model(rope_theta=None, rope_parameters={"rope_theta": 12345.0, "rope_type": "default"})
    assert read_config(folder).rope_theta == 12345.0


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_config(tmp_path)


def test_an_arena_keeps_what_was_left_in_it_unless_zeroed():
    arena = Arena(CPU)
    arena.take("a", (4, 2), torch.float32).fill_(3)
    assert (arena.take("a", (2, 2), torch.float32) == 3).all()
    assert arena.take("b", (0, 7), torch.bfloat16).shape == (0, 7)
    arena.fill(0xFF)
    assert arena.take("a", (2, 2), torch.bfloat16).isnan().all()
    arena.zeroed = True
    assert (arena.take("a", (4, 2), torch.float32) == 0).all()
