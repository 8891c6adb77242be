"""A byte-level tokenizer trained on a few lines, with the special tokens of every chat style of these tests."""

from __future__ import annotations

from typing import Any

import tokenizers

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
