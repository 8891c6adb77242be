"""Model folders without weights: a byte-level tokenizer trained here, and chat templates of many styles."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")
# Modules beside the tests are no packages: names of their own, found from here.
sys.path.insert(0, str(Path(__file__).parent))

from chat_tokenizer import train_tokenizer

from parity.prompt import render


@pytest.fixture(scope="session")
def tokenizer_text() -> str:
    return train_tokenizer().to_str()


@pytest.fixture(scope="module")
def remembered_renderings() -> Iterator[None]:
    """What the sandbox answered once it is not asked again: a child process is most of the cost of a comparison."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "_answer", lru_cache(maxsize=None)(render._answer))
        yield


MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path, tokenizer_text: str) -> MakeFolder:
    """make_folder(template, name=..., config={...}, tokenizer=..., configured=...): a model folder.

    template: written as chat_template.jinja, None for none. configured: `chat_template` of tokenizer_config.json.
    """

    def make(
        template: str | None,
        *,
        name: str = "toy",
        configured: Any = None,
        tokenizer: str | None = None,
        **config: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_text(tokenizer or tokenizer_text, encoding="utf-8")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
        if configured is not None:
            settings["chat_template"] = configured
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return folder

    return make
