"""Are faults planted in llama.cpp's own files found, and is healthy llama.cpp left in peace? A whole climb each.

The engine is not ours: only what it is given is wrong. The floor is made in each investigation from the emulation of
ggml's recipe, on other prompts; no number of the engine is in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.climb import Case, Investigation, investigate
from parity.fingerprint import causes
from parity.runner import Request

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make engines-llama")
from parity_oracles.llama_cpp.convert import Doctored, convert

pytestmark = pytest.mark.long


def random_ids(count: int, seed: int) -> list[int]:
    return torch.randint(0, 211, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for number in range(8):
        content = {"name": f"clean-{number}", "ids": random_ids(80, number)}
        (folder / f"clean-{number}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def climb(
    toys: dict[str, Path], cache: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Investigation]:
    def run(family: str, *, doctored: Doctored | None = None, **options: Any) -> Investigation:
        folder = toys[family]
        model = folder if doctored is None else convert(folder, cache=cache, doctored=doctored)
        case = Case(
            f"llama_cpp:{model}",
            f"hf:{folder}",
            Request("prompt", tuple(random_ids(72, 99))),
            emulation=f"recipe:{folder}",
            calibrate=(str(prompts),),
            sut_options={"cache": str(cache), **options},
            oracle_options={"dtype": "float32"},
            new_tokens=6,
        )
        return investigate(case, tmp_path_factory.mktemp("climb") / "out")

    return run


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"kv": "f16"}),
        ("qwen3", {"dtype": "bf16", "kv": "f16"}),
        ("qwen3_moe", {"kv": "f32"}),
        ("qwen3_moe", {"dtype": "bf16", "kv": "f16"}),
    ],
)
def test_healthy_llama_cpp_is_clean(family: str, options: dict[str, Any], climb: Callable[..., Investigation]) -> None:
    found = climb(family, **options)
    assert found.finding.verdict == "clean", found.finding.sentence
    assert not found.others
    assert found.finding.over_floor is not None


@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_the_missing_permutation_of_q_and_k(kv: str, climb: Callable[..., Investigation]) -> None:
    found = climb("llama", doctored=Doctored(permute=False), kv=kv)
    finding = found.finding
    assert finding.verdict == "fault"
    assert finding.stage == "attn.q"
    assert finding.layers == (0, 1)
    assert finding.cause == causes.ROPE_PAIRING
    assert finding.proof["proved"]
    tensors = finding.evidence["checkpoint"]["tensors"]
    assert set(tensors) == {f"model.layers.{n}.self_attn.{p}_proj.weight" for n in range(2) for p in "qk"}


@pytest.mark.parametrize(("family", "base"), [("llama", 500000.0), ("qwen3_moe", 12000.0)])
def test_a_wrong_rope_base_in_the_metadata(family: str, base: float, climb: Callable[..., Investigation]) -> None:
    found = climb(family, doctored=Doctored(metadata={"rope.freq_base": base}), kv="f16")
    finding = found.finding
    assert finding.verdict == "fault"
    assert finding.stage == "attn.q_rope"
    assert finding.layers == (0, 1)
    assert finding.cause == causes.ROPE_THETA
    assert finding.proof["proved"]
    assert f"{base}" in finding.sentence
