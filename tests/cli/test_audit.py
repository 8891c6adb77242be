"""`parity audit`: what it prints and which exit code it ends with, the engine in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

MODELS = Path("fixtures/models")


def test_the_shipped_model_against_its_bf16_reference(parity: Callable[..., Any]):
    model = MODELS / "moe-tiny-fp8"
    sides = ("--sut", f"triton:{model}", "--oracle", f"recipe:{model}")
    ended = parity("audit", *sides, "--reference", MODELS / "moe-tiny", "--json")
    assert ended.code == 0
    assert {check["outcome"] for check in ended.json["checks"]} == {"held"}
    assert len(ended.json["distances"]) == 182


def test_a_difference_is_named_and_ends_with_one(parity: Callable[..., Any], fp8_model: Path):
    sides = ("--sut", f"triton:{fp8_model}", "--oracle", f"recipe:{fp8_model}")
    ended = parity("audit", *sides, "-o", "fault=rope_theta_default")
    assert ended.code == 1
    assert "rope_theta: the checkpoint says 1e+06" in ended.out
    assert "rope_theta_default" not in ended.out


def test_another_checkpoint_is_refused(parity: Callable[..., Any], fp8_model: Path, bf16_model: Path):
    ended = parity("audit", "--sut", f"triton:{fp8_model}", "--oracle", f"recipe:{bf16_model}")
    assert ended.code == 2
    assert "one checkpoint on both sides" in ended.said
