"""A converted checkpoint against its reference: FP8 noise passes, and what is no rounding does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.audit import judge_distances
from parity.audit.reference import LENGTH, OTHER
from parity.fingerprint.causes import CONSTANT_RATIO, SCALES_UNUSED, TENSOR_UNBOUND
from parity.invariance import Outcome
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.checkpoint.distances import weight_distances

DOWN = "model.layers.1.mlp.experts.2.down_proj.weight"


@pytest.fixture
def edited(fp8_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """edited(change) is a copy of the FP8 model whose tensors went through `change(name, tensor)`."""

    def write(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
        tensors = load_file(fp8_model / "model.safetensors")
        (tmp_path / "config.json").write_text((fp8_model / "config.json").read_text())
        save_file({name: change(name, tensor) for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
        return tmp_path

    return write


def judged(folder: Path, reference: Path) -> tuple[Any, ...]:
    distances, problems = weight_distances(read_checkpoint(folder), reference)
    return distances, *judge_distances(distances, problems)


def test_fp8_noise_is_within_what_e4m3_rounds(fp8_model: Path, bf16_model: Path):
    distances, check, findings = judged(fp8_model, bf16_model)
    assert (check.outcome, findings) == (Outcome.HELD, ())
    fp8 = [one for one in distances if "_proj." in one.name]
    # 3 bits of mantissa err by at most 1/17 of a value, about 2.6 % rms; everything else is stored as it was.
    assert all(0.01 < one.rel_l2 < 1 / 17 and one.cosine > 1 - (1 / 17) ** 2 / 2 for one in fp8)
    assert all(one.rel_l2 == 0 for one in distances if one not in fp8)
    assert max(one.excess for one in fp8) > 0.9  # the bound is not slack: some value lies nearly half a spacing off


def test_scales_ignored_stand_out_by_thousands(edited: Callable[..., Path], bf16_model: Path):
    folder = edited(lambda name, x: torch.ones_like(x) if name.endswith("_scale_inv") else x)
    _, check, (finding,) = judged(folder, bf16_model)
    assert (check.outcome, finding.name, len(finding.tensors)) == (Outcome.BROKEN, LENGTH, 38)
    assert finding.evidence["norm_ratio"][0] > 500


@pytest.mark.parametrize("factor", [1.02, 0.98, 1.01])
def test_one_scale_of_one_block(factor: float, edited: Callable[..., Path], bf16_model: Path):
    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == DOWN + "_scale_inv":
            tensor = tensor.clone()
            tensor[1, 0] *= factor  # rows 128..143: the edge block, 16 rows high
        return tensor

    distances, _, (finding,) = judged(edited(change), bf16_model)
    assert finding.tensors == (DOWN,)
    wrong = next(one for one in distances if one.name == DOWN)
    assert wrong.worst_block[0] == (1, 0)


@pytest.mark.parametrize("factor", [1.03, 0.25, 100.0])
def test_a_factor_of_one_weight_is_no_scale_left_out(factor: float, edited: Callable[..., Path], bf16_model: Path):
    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * factor if name == DOWN + "_scale_inv" else tensor

    _, _, (finding,) = judged(edited(change), bf16_model)
    assert (finding.name, finding.tensors) == (LENGTH, (DOWN,))
    assert finding.cause == (CONSTANT_RATIO if factor == 1.03 else SCALES_UNUSED)


def test_other_values_of_a_plain_tensor_are_no_misplaced_scales(edited: Callable[..., Path], bf16_model: Path):
    gain = "model.layers.0.input_layernorm.weight"
    _, _, (finding,) = judged(edited(lambda name, x: x.flip(0) if name == gain else x), bf16_model)
    assert (finding.name, finding.cause, finding.tensors) == (OTHER, TENSOR_UNBOUND, (gain,))


def test_a_transposed_grid_shows_in_blocks(edited: Callable[..., Path], bf16_model: Path):
    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.T.contiguous() if name == DOWN + "_scale_inv" else tensor

    distances, _, (finding,) = judged(edited(change), bf16_model)
    wrong = next(one for one in distances if one.name == DOWN)
    assert finding.tensors == (DOWN,)
    assert finding.name == OTHER
    assert wrong.worst_block[0] in ((0, 1), (1, 0))
    assert wrong.outside < 0.5  # the diagonal blocks keep their scales


def test_one_wrong_element_of_a_plain_tensor_and_a_nan(edited: Callable[..., Path], bf16_model: Path):
    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        if name == "model.norm.weight":
            tensor[3] *= 1.0078125  # one unit in the last place of bf16
        if name == "model.layers.0.mlp.gate.weight":
            tensor[0, 0] = float("nan")
        return tensor

    _, _, findings = judged(edited(change), bf16_model)
    found = {tensor for finding in findings for tensor in finding.tensors}
    assert found == {"model.norm.weight", "model.layers.0.mlp.gate.weight"}


def test_a_reference_of_other_shapes_is_a_problem_for_each(fp8_model: Path, bf16_model: Path, tmp_path: Path):
    config = json.loads((bf16_model / "config.json").read_text())
    tensors = load_file(bf16_model / "model.safetensors")
    kept = {name: x for name, x in tensors.items() if "layers.1." not in name}
    kept["model.embed_tokens.weight"] = kept["model.embed_tokens.weight"][:79].contiguous()
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "vocab_size": 79}))
    save_file(kept, tmp_path / "model.safetensors")
    _, check, (finding,) = judged(fp8_model, tmp_path)
    assert check.outcome is Outcome.BROKEN
    assert len(finding.tensors) == 1 + 24
