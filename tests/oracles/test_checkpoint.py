"""Is a model folder read whole, and is every way in which it can be incomplete or inconsistent named?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.errors import CheckpointError, ConfigError
from parity_oracles.checkpoint import dequantize_block_fp8, layout, read_checkpoint, read_hyper

Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.experts.3.down_proj.weight"
Tensors = dict[str, torch.Tensor]


def read_everything(folder: Path) -> Tensors:
    checkpoint = read_checkpoint(folder)
    found = {name: checkpoint.weight(name) for name in {**layout.plain(checkpoint.hyper)}}
    found |= {name: checkpoint.weight(name) for name in layout.quantizable(checkpoint.hyper)}
    checkpoint.finish()
    return found


def test_weights_are_the_stored_ones_dequantized(fp8_folder: Path) -> None:
    stored = load_file(fp8_folder / "model.safetensors")
    found = read_everything(fp8_folder)
    assert len(found) == sum(not name.endswith("_scale_inv") for name in stored)
    for name, weight in found.items():
        scale = stored.get(name + "_scale_inv")
        expected = stored[name].float() if scale is None else dequantize_block_fp8(stored[name], scale)
        assert torch.equal(weight, expected), name
    assert found[DOWN].shape == (160, 136)


def test_shards_give_the_same_as_one_file(make_model: Callable[..., Path], fp8_folder: Path) -> None:
    sharded = make_model(quantized=True, tie_word_embeddings=False, shards=3)
    assert len(list(sharded.glob("*.safetensors"))) == 3
    one, three = read_everything(fp8_folder), read_everything(sharded)
    assert one.keys() == three.keys()
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_a_scale_that_nobody_took_is_an_error(fp8_folder: Path) -> None:
    checkpoint = read_checkpoint(fp8_folder)
    for name in checkpoint.names:
        if not name.endswith("_scale_inv") and name != Q:
            checkpoint.weight(name)
    with pytest.raises(CheckpointError, match=rf"{Q}, {Q}_scale_inv never read"):
        checkpoint.finish()
    checkpoint.weight(Q)
    checkpoint.finish()


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, make: Callable[[torch.Tensor], torch.Tensor], source: str | None = None) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: make(tensors[source or name])})


DAMAGE = {
    "missing weight": (drop(DOWN), f"missing: {DOWN}"),
    "missing norm": (drop("model.norm.weight"), "missing: model.norm.weight"),
    "missing head": (drop("lm_head.weight"), "missing: lm_head.weight"),
    "missing scale": (drop(DOWN + "_scale_inv"), rf"{DOWN}_scale_inv beside the E4M3 weight"),
    "extra tensor": (put("model.layers.2.mlp.gate.weight", torch.clone, "model.norm.weight"), "also: model.layers.2"),
    "scale of a BF16 weight": (put("lm_head.weight_scale_inv", lambda t: t[:2, :2].float(), "lm_head.weight"), "also:"),
    "transposed weight": (put(DOWN, lambda t: t.T.contiguous()), rf"{DOWN} of shape \[160, 136\].*\[136, 160\]"),
    "scale grid": (put(Q + "_scale_inv", lambda t: t[:, :1].contiguous()), r"_scale_inv of shape \[2, 2\].*\[2, 1\]"),
    "scale dtype": (put(Q + "_scale_inv", lambda t: t.to(torch.uint8)), "in one of float32, bfloat16; found U8"),
    "integer weight": (put("model.norm.weight", lambda t: t.to(torch.int32)), "model.norm.weight in one of .* I32"),
    "quantized router": (
        put("model.layers.0.mlp.gate.weight", lambda t: t.to(torch.float8_e4m3fn)),
        "mlp.gate.weight in one of float32, bfloat16, float16; found F8_E4M3",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(damage: str, fp8_folder: Path, tmp_path: Path) -> None:
    change, message = DAMAGE[damage]
    tensors = load_file(fp8_folder / "model.safetensors")
    change(tensors)
    shutil.copy(fp8_folder / "config.json", tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path)


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_fp8_weights_without_a_quantization_config(fp8_folder: Path, tmp_path: Path) -> None:
    """HF ignores the scales of such a folder and runs with weights 1700 times too large."""
    edit_config(copy_of(fp8_folder, tmp_path), quantization_config=None)
    with pytest.raises(CheckpointError, match=r"exactly when config.json has a quantization_config"):
        read_checkpoint(tmp_path)


def test_a_quantization_config_without_fp8_weights(bf16_folder: Path, fp8_folder: Path, tmp_path: Path) -> None:
    quantization = json.loads((fp8_folder / "config.json").read_text())["quantization_config"]
    edit_config(copy_of(bf16_folder, tmp_path), quantization_config=quantization)
    with pytest.raises(CheckpointError, match="0 E4M3 weights with quantization fp8_block"):
        read_checkpoint(tmp_path)


def test_a_tied_head_may_be_stored_only_as_the_embedding(bf16_folder: Path, tmp_path: Path) -> None:
    copy_of(bf16_folder, tmp_path)
    tensors = load_file(bf16_folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    read_everything(tmp_path)
    tensors["lm_head.weight"][5, 7] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight equal to the embedding"):
        read_checkpoint(tmp_path)


def test_damaged_files_are_named(fp8_folder: Path, make_model: Callable[..., Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(fp8_folder / "config.json", empty)
    with pytest.raises(CheckpointError, match="found neither"):
        read_checkpoint(empty)
    cut = copy_of(fp8_folder, tmp_path / "cut")
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"a readable model.safetensors"):
        read_checkpoint(cut)
    shards = copy_of(make_model(shards=2), tmp_path / "shards")
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    other = {name: file for name, file in index["weight_map"].items() if name != Q}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": other}))
    with pytest.raises(CheckpointError, match=rf"{Q} in no shard, as the index says"):
        read_checkpoint(shards)
    file = shards / index["weight_map"][Q]
    twice = load_file(shards / next(f for f in index["weight_map"].values() if f != file.name))
    twice[Q] = load_file(file)[Q]
    save_file(twice, shards / next(f for f in index["weight_map"].values() if f != file.name))
    with pytest.raises(CheckpointError, match=rf"tensor {Q} in one shard"):
        read_checkpoint(shards)
    file.unlink()
    with pytest.raises(CheckpointError, match="a readable " + file.name):
        read_checkpoint(shards)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a readable HF config.json"):
        read_checkpoint(tmp_path)


BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
BAD_CONFIG = {
    "other family": ({"model_type": "gpt2"}, "model_type llama or qwen3 or qwen3_moe"),
    "no eps": ({"rms_norm_eps": None}, "a value for rms_norm_eps"),
    "no rope base": ({"rope_parameters": {"rope_type": "default"}}, "one value; found none"),
    "two rope bases": ({"rope_theta": 5e6}, r"one value; found \[10000.0, 5000000.0\]"),
    "scaled rope": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'default'"),
    "sliding window": ({"use_sliding_window": True}, "use_sliding_window"),
    "dense layers": ({"mlp_only_layers": [1]}, "mlp_only_layers"),
    "static activations": ({"quantization_config": BLOCKS | {"activation_scheme": "static"}}, "dynamic"),
    "other blocks": ({"quantization_config": BLOCKS | {"weight_block_size": [1, 32]}}, r"\[128, 128\]"),
}


@pytest.mark.parametrize("bad", BAD_CONFIG)
def test_a_config_that_cannot_be_honoured_is_refused(bad: str, bf16_folder: Path) -> None:
    changes, message = BAD_CONFIG[bad]
    config = json.loads((bf16_folder / "config.json").read_text()) | changes
    with pytest.raises(ConfigError, match=message):
        read_hyper(config)


def test_both_spellings_of_the_rope_base(bf16_folder: Path) -> None:
    config = json.loads((bf16_folder / "config.json").read_text())
    old = {key: value for key, value in config.items() if key != "rope_parameters"} | {"rope_theta": 10000}
    assert read_hyper(old) == read_hyper(config)
    assert read_hyper(old).rope_theta == 10000.0
