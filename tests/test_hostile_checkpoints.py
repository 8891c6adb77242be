"""Is a damaged or hostile model folder named at the door, by the engine and by both oracles, before anything computes?

One list of corruptions for all three: the packages share no code, so each must see every one by itself. A refusal names
the tensor or the key, and comes before a forward pass, a model of transformers, or a weight on a device exists.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.errors import CheckpointError, ConfigError, ParityError
from parity.runner import open_runner

Tensors = dict[str, torch.Tensor]
RUNNERS = ("triton", "hf", "recipe")
DOWN = "model.layers.1.mlp.experts.3.down_proj.weight"  # [144, 136]: a scale grid of 2 x 2 with both edges partial
KEY = "model.layers.0.self_attn.k_proj.weight"  # [64, 144]: a scale grid of 1 x 2
NORM = "model.norm.weight"
SCALE = "_scale_inv"
INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def nothing_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the door, for every runner, fails the test when it is reached."""
    transformers = pytest.importorskip("transformers")
    from parity_kernels.forward.qwen3_moe import Qwen3Moe
    from parity_oracles.recipes.runner import RecipeRunner

    def reached(*_: Any, **__: Any) -> Any:
        pytest.fail("computed before it refused")

    monkeypatch.setattr(Qwen3Moe, "__init__", reached)
    monkeypatch.setattr(RecipeRunner, "compute", reached)
    monkeypatch.setattr(transformers.PreTrainedModel, "__init__", reached)
    monkeypatch.setattr("parity_kernels.forward.weights._Binder.bind", reached)


def refused(runner: str, folder: Path, kind: type[ParityError]) -> str:
    with pytest.raises(kind) as refusal:
        open_runner(f"{runner}:{folder}")
    error = refusal.value
    assert error.expected
    assert error.found
    assert error.next_step
    return str(error)


def rewrite(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def put(name: str, make: Callable[[torch.Tensor], torch.Tensor], source: str | None = None) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: make(tensors[source or name])})


def with_scale(value: float) -> Callable[[Tensors], Any]:
    def change(tensors: Tensors) -> None:
        tensors[DOWN + SCALE][1, 0] = value

    return change


# What is done to the tensors of a block-FP8 checkpoint, and the tensor that must be named.
TENSORS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "a weight is missing": (lambda t: t.pop(DOWN), DOWN),
    "a norm is missing": (lambda t: t.pop(NORM), NORM),
    "the embedding is missing": (lambda t: t.pop("model.embed_tokens.weight"), "model.embed_tokens.weight"),
    "a scale is missing": (lambda t: t.pop(DOWN + SCALE), DOWN + SCALE),
    "a scale too many": (put("model.layers.0.mlp.gate.weight" + SCALE, lambda t: t.clone(), DOWN + SCALE), "mlp.gate"),
    "a scale for a norm": (put(NORM + SCALE, lambda t: t.clone(), DOWN + SCALE), NORM + SCALE),
    "an unknown tensor": (put("model.layers.0.mlp.shared.weight", torch.clone, NORM), "model.layers.0.mlp.shared"),
    "a layer too many": (put("model.layers.2.input_layernorm.weight", torch.clone, NORM), "model.layers.2"),
    "an expert too many": (put("model.layers.0.mlp.experts.5.up_proj.weight", torch.clone, DOWN), "experts.5.up"),
    "a transposed weight": (put(DOWN, lambda t: t.T), DOWN),
    "a weight one row short": (put(DOWN, lambda t: t[:-1]), DOWN),
    "an embedding of another vocabulary": (put("model.embed_tokens.weight", lambda t: t[:-3]), "model.embed_tokens"),
    "a scale grid transposed": (put(KEY + SCALE, lambda t: t.T), KEY + SCALE),
    "a scale grid one row short": (put(DOWN + SCALE, lambda t: t[:-1]), DOWN + SCALE),
    "a scale grid one column too wide": (put(DOWN + SCALE, lambda t: torch.cat((t, t[:, :1]), 1)), DOWN + SCALE),
    "one scale for the whole weight": (put(DOWN + SCALE, lambda t: t.max()), DOWN + SCALE),
    "scales of bytes": (put(DOWN + SCALE, lambda t: t.to(torch.uint8)), DOWN + SCALE),
    "scales of E8M0": (put(DOWN + SCALE, lambda t: t.to(torch.float8_e8m0fnu)), DOWN + SCALE),
    "a scale of zero": (with_scale(0.0), DOWN + SCALE),
    "a negative scale": (with_scale(-1.0), DOWN + SCALE),
    "a scale that is NaN": (with_scale(float("nan")), DOWN + SCALE),
    "an infinite scale": (with_scale(float("inf")), DOWN + SCALE),
    "integers for a norm": (put(NORM, lambda t: t.to(torch.int32)), NORM),
    "fp64 for a weight": (put(DOWN, lambda t: t.float().double()), DOWN),
    "E5M2 for a weight": (put(DOWN, lambda t: t.float().to(torch.float8_e5m2)), DOWN),
    "E4M3 for a norm": (put(NORM, lambda t: t.to(torch.float8_e4m3fn)), NORM),
    "E4M3 for a router": (
        put("model.layers.0.mlp.gate.weight", lambda t: t.to(torch.float8_e4m3fn)),
        "model.layers.0.mlp.gate.weight",
    ),
    "BF16 for one weight, its scale left": (put(DOWN, lambda t: t.to(torch.bfloat16)), DOWN),
    "another head beside a tied embedding": (
        put("lm_head.weight", lambda t: t + 1, "model.embed_tokens.weight"),
        "lm_head.weight",
    ),
}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("corruption", TENSORS)
def test_a_corrupted_tensor_is_named(runner: str, corruption: str, write_model: Callable[..., Path]) -> None:
    change, name = TENSORS[corruption]
    folder = write_model(fp8=True)
    rewrite(folder, change)
    assert name in refused(runner, folder, CheckpointError)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_zero_scale_over_zeros_is_no_corruption(runner: str, write_model: Callable[..., Path]) -> None:
    """Converters that do not bound amax from below write a zero scale for an empty block; nothing is lost by it."""
    folder = write_model(fp8=True)

    def empty_block(tensors: Tensors) -> None:
        tensors[DOWN + SCALE][1, 1] = 0
        tensors[DOWN][128:, 128:] = 0

    rewrite(folder, empty_block)
    if runner == "recipe":
        open_runner(f"{runner}:{folder}")
    else:
        with pytest.raises(pytest.fail.Exception, match="computed before it refused"):
            open_runner(f"{runner}:{folder}")


def config(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.update(changes)


BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
# What config.json is made to say, and the word that must be named.
CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers"),
    "a negative size": (config(hidden_size=-144), "hidden_size"),
    "a size in quotes": (config(num_experts="5"), "num_experts"),
    "a size that is true": (config(num_key_value_heads=True), "num_key_value_heads"),
    "a fractional size": (config(moe_intermediate_size=136.0), "moe_intermediate_size"),
    "a list for a size": (config(vocab_size=[80]), "vocab_size"),
    "a head dimension of zero": (config(head_dim=0), "head_dim"),
    "an odd head dimension": (config(head_dim=33), "head_dim"),
    "heads times head_dim beyond 31 bits": (config(num_attention_heads=2**20, head_dim=2**20), "head_dim"),
    "a size beyond 64 bits": (config(vocab_size=2**70), "vocab_size"),
    "more chosen experts than there are": (config(num_experts_per_tok=6), "num_experts_per_tok"),
    "heads that the key heads do not divide": (config(num_key_value_heads=3), "num_key_value_heads"),
    "two numbers of experts": (config(num_local_experts=7), "num_local_experts"),
    "no rope base": (lambda c: c.pop("rope_theta"), "rope_theta"),
    "a rope base of zero": (config(rope_theta=0), "rope_theta"),
    "a negative rope base": (config(rope_theta=-1e6), "rope_theta"),
    "a rope base that is NaN": (config(rope_theta=float("nan")), "rope_theta"),
    "an infinite rope base": (config(rope_theta=float("inf")), "rope_theta"),
    "a rope base beyond any float": (config(rope_theta=10**400), "rope_theta"),
    "two rope bases": (config(rope_parameters={"rope_theta": 5e6}), "rope_theta"),
    "rope parameters in quotes": (config(rope_parameters="default"), "rope_parameters"),
    "scaled rope": (config(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "yarn"),
    "an epsilon of zero": (config(rms_norm_eps=0), "rms_norm_eps"),
    "an epsilon that is NaN": (config(rms_norm_eps=float("nan")), "rms_norm_eps"),
    "an epsilon in quotes": (config(rms_norm_eps="1e-6"), "rms_norm_eps"),
    "no positions": (config(max_position_embeddings=0), "max_position_embeddings"),
    "a flag in quotes": (config(norm_topk_prob="false"), "norm_topk_prob"),
    "a tied head in quotes": (config(tie_word_embeddings="false"), "tie_word_embeddings"),
    "another family": (config(model_type="gpt2"), "model_type"),
    "another activation": (config(hidden_act="gelu"), "hidden_act"),
    "sliding windows": (config(use_sliding_window=True), "use_sliding_window"),
    "a bias": (config(attention_bias=True), "attention_bias"),
    "dense layers": (config(mlp_only_layers=[0]), "mlp_only_layers"),
    "experts in every second layer": (config(decoder_sparse_step=2), "decoder_sparse_step"),
    "quantization in quotes": (config(quantization_config="fp8"), "quantization_config"),
    "another quantization": (config(quantization_config={"quant_method": "awq", "bits": 4}), "awq"),
    "other blocks": (config(quantization_config=BLOCKS | {"weight_block_size": [64, 64]}), "64"),
    "a number for blocks": (config(quantization_config=BLOCKS | {"weight_block_size": 128}), "weight_block_size"),
    "static activations": (config(quantization_config=BLOCKS | {"activation_scheme": "static"}), "static"),
    "another 8-bit format": (config(quantization_config=BLOCKS | {"fmt": "e5m2"}), "e5m2"),
    "code of its own": (config(auto_map={"AutoModelForCausalLM": "evil.Model"}), "auto_map"),
    "trust in remote code": (config(trust_remote_code=True), "trust_remote_code"),
}
# Values that are fine by themselves and contradict the tensors.
LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a billion layers": (config(num_hidden_layers=2**30), "model.layers."),
    "two billion experts": (config(num_experts=2**30, moe_intermediate_size=1), "model.layers."),
    "a layer more": (config(num_hidden_layers=3), "model.layers.2"),
    "a layer fewer": (config(num_hidden_layers=1), "model.layers.1"),
    "another vocabulary": (config(vocab_size=81), "model.embed_tokens.weight"),
    "another head dimension": (config(head_dim=16), "model.layers.0.self_attn"),
    "other heads": (config(num_attention_heads=8), "model.layers.0.self_attn"),
    "another width": (config(moe_intermediate_size=128), "model.layers.0.mlp.experts.0"),
    "a head that is not tied and not there": (config(tie_word_embeddings=False), "lm_head.weight"),
    "no quantization over E4M3 weights": (lambda c: c.pop("quantization_config"), "quantization"),
}


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("corruption", CONFIGS)
def test_an_absurd_configuration_is_named(runner: str, corruption: str, fp8_model: Path, tmp_path: Path) -> None:
    change, word = CONFIGS[corruption]
    folder = link(fp8_model, tmp_path / "model")
    edit_config(folder, change)
    assert word in refused(runner, folder, ConfigError)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("corruption", LIES)
def test_a_configuration_that_lies_about_the_tensors_is_named(
    runner: str, corruption: str, fp8_model: Path, tmp_path: Path
) -> None:
    change, word = LIES[corruption]
    folder = link(fp8_model, tmp_path / "model")
    edit_config(folder, change)
    assert word in refused(runner, folder, CheckpointError)


def link(folder: Path, to: Path) -> Path:
    """A model folder with a configuration of its own and the other's tensors."""
    to.mkdir()
    shutil.copy(folder / "config.json", to)
    (to / "model.safetensors").symlink_to(folder / "model.safetensors")
    return to


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"config"', "\udcff", "[" * 100_000, None])
def test_a_configuration_that_is_no_json_object_is_named(runner: str, text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert "config.json" in refused(runner, tmp_path, ConfigError)


def test_code_that_a_configuration_names_is_never_run(fp8_model: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    folder = link(fp8_model, tmp_path / "model")
    code = f"open({str(marker)!r}, 'w')\nclass Model: pass\nclass Config: pass\n"
    (folder / "evil.py").write_text(code)
    edit_config(folder, config(auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}))
    for runner in RUNNERS:
        refused(runner, folder, ConfigError)
    assert not marker.exists()


def test_a_value_that_only_transformers_reads_ends_in_a_refusal_too(fp8_model: Path, tmp_path: Path) -> None:
    folder = link(fp8_model, tmp_path / "model")
    edit_config(folder, config(attention_dropout="much"))
    assert "attention_dropout" in refused("hf", folder, ConfigError)


def sharded(folder: Path) -> tuple[Path, dict[str, str]]:
    """The same model in two shards with their index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(where.values()):
        save_file({name: tensor for name, tensor in tensors.items() if where[name] == file}, folder / file)
    write_index(folder, where)
    return folder, where


def write_index(folder: Path, where: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def outside(path: str) -> Callable[[Path, dict[str, str]], Any]:
    def change(folder: Path, where: dict[str, str]) -> None:
        (folder.parent / "sub").mkdir()
        for target in (folder.parent / "part-0.safetensors", folder.parent / "sub/part-0.safetensors"):
            shutil.copy(folder / "part-0.safetensors", target)
        named = path.replace("HERE", str(folder.parent))
        write_index(folder, {name: named if file == "part-0.safetensors" else file for name, file in where.items()})

    return change


def other_shard(where: dict[str, str]) -> str:
    return "part-1.safetensors" if where[DOWN] == "part-0.safetensors" else "part-0.safetensors"


def twice(folder: Path, where: dict[str, str]) -> None:
    other = folder / other_shard(where)
    tensors = load_file(other)
    tensors[DOWN] = torch.zeros(144, 136, dtype=torch.float8_e4m3fn)
    save_file(tensors, other)


def truncate(folder: Path, by: int) -> None:
    data = (folder / "part-1.safetensors").read_bytes()
    (folder / "part-1.safetensors").write_bytes(data[:-by] if by > 0 else data + b"x" * -by)


def huge_header(folder: Path, _: Any) -> None:
    (folder / "part-1.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


SHARDS: dict[str, tuple[Callable[[Path, dict[str, str]], Any], str]] = {
    "a shard is missing": (lambda folder, _: (folder / "part-1.safetensors").unlink(), "part-1.safetensors"),
    "a shard is a folder": (
        lambda folder, _: ((folder / "part-1.safetensors").unlink(), (folder / "part-1.safetensors").mkdir()),
        "part-1.safetensors",
    ),
    "a shard is cut by a byte": (lambda folder, _: truncate(folder, 1), "part-1.safetensors"),
    "a shard is empty": (lambda folder, _: (folder / "part-1.safetensors").write_bytes(b""), "part-1.safetensors"),
    "a shard has a tail": (lambda folder, _: truncate(folder, -7), "part-1.safetensors"),
    "a shard's header lies about its length": (huge_header, "part-1.safetensors"),
    "a shard outside the folder": (outside("../part-0.safetensors"), "../part-0"),
    "a shard by an absolute path": (outside("HERE/part-0.safetensors"), "part-0.safetensors'"),
    "a shard in another folder": (outside("../sub/part-0.safetensors"), "../sub"),
    "a shard that is no safetensors file": (outside("part-0.bin"), "part-0.bin"),
    "a shard that is a number": (lambda folder, where: write_index(folder, where | {DOWN: 3}), DOWN),
    "a tensor in two shards": (twice, DOWN),
    "a tensor in another shard than the index says": (
        lambda folder, where: write_index(folder, where | {DOWN: other_shard(where)}),
        DOWN,
    ),
    "a tensor that the index leaves out": (
        lambda folder, where: write_index(folder, {name: file for name, file in where.items() if name != DOWN}),
        DOWN,
    ),
    "a tensor that only the index has": (
        lambda folder, where: write_index(folder, where | {"model.more": "part-0.safetensors"}),
        "model.more",
    ),
    "an index that is no JSON": (lambda folder, _: (folder / INDEX).write_text("{"), INDEX),
    "an index that is a list": (lambda folder, _: (folder / INDEX).write_text("[]"), INDEX),
    "an index without a map": (lambda folder, _: (folder / INDEX).write_text("{}"), INDEX),
    "a map that is a list": (lambda folder, _: write_index(folder, ["a"]), INDEX),
    "a map of nothing": (lambda folder, _: write_index(folder, {}), INDEX),
    "a single file besides": (
        lambda folder, _: shutil.copy(folder / "part-0.safetensors", folder / "model.safetensors"),
        INDEX,
    ),
    "shards without an index": (lambda folder, _: (folder / INDEX).unlink(), INDEX),
}  # fmt: skip


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("corruption", SHARDS)
def test_a_damaged_set_of_shards_is_named(runner: str, corruption: str, write_model: Callable[..., Path]) -> None:
    change, name = SHARDS[corruption]
    folder, where = sharded(write_model(fp8=True))
    change(folder, where)
    assert name in refused(runner, folder, CheckpointError)


def tokenizer(size: int, added: int | None = None) -> str:
    """A tokenizer.json of `size` words, and one added token with the id `added`."""
    word = {"id": added, "content": "<far>", "single_word": False, "lstrip": False, "rstrip": False, "special": True,
            "normalized": False}  # fmt: skip
    model = {"type": "WordLevel", "vocab": {f"w{number}": number for number in range(size)}, "unk_token": "w0"}
    return json.dumps({"version": "1.0", "added_tokens": [] if added is None else [word], "model": model})


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("text", "named"),
    [(tokenizer(81), "w80"), (tokenizer(80, added=80), "<far>"), ("{}", "tokenizer.json"), ("", "tokenizer.json")],
    ids=["a word too many", "an added token too many", "no tokenizer", "an empty file"],
)
def test_a_tokenizer_that_does_not_fit_is_named(
    runner: str, text: str, named: str, fp8_model: Path, tmp_path: Path
) -> None:
    folder = link(fp8_model, tmp_path / "model")
    (folder / "tokenizer.json").write_text(text)
    assert named in refused(runner, folder, CheckpointError)


@pytest.mark.parametrize("text", [tokenizer(80), tokenizer(3), None], ids=["as many words", "fewer words", "none"])
def test_a_tokenizer_that_fits_or_is_missing_is_fine(text: str | None, fp8_model: Path, tmp_path: Path) -> None:
    folder = link(fp8_model, tmp_path / "model")
    if text is not None:
        (folder / "tokenizer.json").write_text(text)
    assert open_runner(f"recipe:{folder}").hyper.vocab == 80
