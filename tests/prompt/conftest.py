"""Model folders without weights: a byte-level tokenizer trained here, and chat templates of many styles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

tokenizers = pytest.importorskip("tokenizers")

SPECIAL = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]",
    "<|User|>", "<|Assistant|>",
)  # fmt: skip
PLAIN = ("<think>", "</think>", "<tool_call>", "</tool_call>")

CORPUS = [
    "system user assistant tool model developer What is a noise floor? You are a helpful engineer.",
    "Cutting Knowledge Date: December 2023 Today Date: 26 Jul 2024 Reasoning: high",
    '{"type": "function", "function": {"name": "read_stage", "parameters": {"layer": 12345}}}',
    "The error of a correct implementation, measured slice by slice.\n\nNaïve café, 東京, 12 + 34 = 46.\n",
] * 8


def train_tokenizer(**byte_level: Any) -> Any:
    """A byte-level BPE of 600 tokens with the special tokens of every template here."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    options = {"add_prefix_space": False, **byte_level}
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(**options)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    made.add_tokens([tokenizers.AddedToken(token, special=False, normalized=False) for token in PLAIN])
    return made


@pytest.fixture(scope="session")
def tokenizer_text() -> str:
    return train_tokenizer().to_str()


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
