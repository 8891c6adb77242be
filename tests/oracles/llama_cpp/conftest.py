"""Toy folders of the three families for llama.cpp: a run takes a tenth of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.runner import Request

FAMILIES = ("llama", "qwen3", "qwen3_moe")
# 96 and 160 are not multiples of 64; 32 divides them, as Q8_0 needs. Two query heads a key/value head.
TOY: dict[str, Any] = {
    "architectures": [], "hidden_size": 96, "head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 160, "moe_intermediate_size": 160,
}  # fmt: skip

REQUEST = Request("a", tuple(number * 7 % 211 for number in range(40)))
SHORT = Request("b", (5, 6, 7, 210, 0))


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> dict[str, Path]:
    return {family: make_model(model_type=family, tie_word_embeddings=family == "qwen3", **TOY) for family in FAMILIES}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="session")
def open_engine(toys: dict[str, Path], cache: Path) -> Callable[..., Any]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make engines-llama")
    from parity_oracles.llama_cpp.runner import open_runner

    def open_(model: str | Path, **options: Any) -> Any:
        return open_runner(str(toys.get(str(model), model)), cache=str(cache), **options)

    return open_
