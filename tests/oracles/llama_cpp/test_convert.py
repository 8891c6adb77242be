"""A Hugging Face folder as GGUF: every tensor comes back by its name, at the precision asked for, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.errors import CheckpointError, ConfigError, UsageError
from parity.records import Lineage
from parity.trace import lineage_of
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.recipes.formats import round_q8_0

pytest.importorskip("gguf")
from parity_oracles.llama_cpp.convert import Doctored, convert, neighbouring
from parity_oracles.llama_cpp.gguf_file import read_gguf
from parity_oracles.llama_cpp.tap import halves, neighbours


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0"])
def test_every_tensor_comes_back(family: str, dtype: str, toys: dict[str, Path], cache: Path) -> None:
    checkpoint = read_checkpoint(toys[family])
    file = read_gguf(convert(toys[family], dtype=dtype, cache=cache))
    found = dict(file.parameters())
    assert set(found) == set(checkpoint.names)
    for name, values in found.items():
        wanted = checkpoint.weight(name)
        if dtype == "q8_0" and wanted.dim() > 1 and "mlp.gate.weight" not in name:
            wanted = round_q8_0(wanted)  # ours, from the specification: the package's own comes to the same numbers
        assert torch.equal(values, wanted), name  # BF16 weights lose nothing in F32 or BF16
    assert file.weight_type == dtype
    hyper, more = file.hyper()
    assert hyper == checkpoint.hyper
    assert more == {"rotary_dim": 32}
    assert file.lineage == lineage_of(toys[family])


def test_block_fp8_is_dequantized_first(make_model: Callable[..., Path], cache: Path) -> None:
    folder = make_model(quantized=True)
    checkpoint = read_checkpoint(folder)
    found = dict(read_gguf(convert(folder, cache=cache)).parameters())
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    assert torch.equal(found[name], checkpoint.weight(name))


def test_a_file_is_made_once_and_again_when_anything_differs(toys: dict[str, Path], tmp_path: Path) -> None:
    first = convert(toys["llama"], cache=tmp_path)
    stamp = first.stat().st_mtime_ns
    assert convert(toys["llama"], cache=tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    others = [
        convert(toys["llama"], dtype="bf16", cache=tmp_path),
        convert(toys["llama"], cache=tmp_path, doctored=Doctored(permute=False)),
        convert(toys["llama"], cache=tmp_path, doctored=Doctored(metadata={"rope.freq_base": 5e5})),
        convert(toys["qwen3"], cache=tmp_path),
    ]
    assert len({first, *others}) == 5
    assert sorted(tmp_path.iterdir()) == sorted({first, *others})  # nothing half-made is left


def test_rows_of_q_are_reordered_as_the_rope_pairs_them() -> None:
    weight = torch.arange(2 * 6 * 5.0).view(12, 5)  # two heads of six
    rows = neighbouring(weight, 2)[:, 0] / 5
    assert rows.tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    x = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(halves(neighbours(x)), x)
    assert torch.equal(halves(torch.tensor([[[0.0, 3, 1, 4, 2, 5]]])), torch.arange(6.0).view(1, 1, 6))


def test_without_the_reordering_the_names_come_back_and_the_values_do_not(toys: dict[str, Path], cache: Path) -> None:
    checkpoint = read_checkpoint(toys["llama"])
    found = dict(read_gguf(convert(toys["llama"], cache=cache, doctored=Doctored(permute=False))).parameters())
    wrong = {name for name, values in found.items() if not torch.equal(values, checkpoint.weight(name))}
    assert wrong == {f"model.layers.{n}.self_attn.{p}_proj.weight" for n in range(2) for p in "qk"}


def test_what_llama_cpp_computes_otherwise_is_refused(make_model: Callable[..., Path], cache: Path) -> None:
    with pytest.raises(ConfigError, match="norm_topk_prob"):
        convert(make_model(norm_topk_prob=False), cache=cache)
    with pytest.raises(ConfigError, match="32 wide"):
        convert(make_model(), dtype="q8_0", cache=cache)  # experts of width 136
    with pytest.raises(UsageError, match="q4_k"):
        convert(make_model(), dtype="q4_k", cache=cache)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGML" + bytes(64))
    with pytest.raises(CheckpointError, match="GGUF"):
        read_gguf(tmp_path / "x.gguf")
    with pytest.raises(CheckpointError, match="GGUF"):
        read_gguf(tmp_path / "none.gguf")


def test_a_file_of_others_has_no_lineage(toys: dict[str, Path], cache: Path) -> None:
    file = read_gguf(convert(toys["qwen3"], cache=cache))
    stranger = type(file)(file.path, {k: v for k, v in file.fields.items() if not k.startswith("parity.")})
    assert stranger.lineage == Lineage("unknown")
