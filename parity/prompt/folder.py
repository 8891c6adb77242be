"""Which chat templates and special tokens does a model folder hold, and which template counts?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.errors import CheckpointError, ConfigError

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
CONFIG_FILE = "tokenizer_config.json"

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that a template can name; transformers hands it exactly these."""

LARGEST = 4 << 20
"""Bytes of a template or settings file: published ones stay under 100 kB, vocabularies in settings under 2 MB."""


@dataclass(frozen=True)
class Template:
    """One chat template. name: `default`, `tool_use`, ...; source: the file it stands in, and where."""

    name: str
    source: str
    text: str


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says of prompts.

    templates: those in force, by name. ignored: those in tokenizer_config.json that a template file overrules.
    special: special tokens by name, those that are set. files: True when `chat_template.jinja` is there.
    """

    path: Path
    templates: Mapping[str, Template]
    ignored: Mapping[str, Template]
    special: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def from_file(self) -> bool:
        """True when the template in force stands in a file of its own."""
        return any(template.source != CONFIG_FILE for template in self.templates.values())

    def chosen(self, *, tools: bool) -> Template:
        """The template for a conversation: `tool_use` when there are tools and it exists, else `default`.

        Raises CheckpointError when the folder has no template, or several and none of these.
        """
        names = ("tool_use", "default") if tools else ("default",)
        for name in names:
            if name in self.templates:
                return self.templates[name]
        raise CheckpointError(
            place=str(self.path),
            expected=f"a chat template: {TEMPLATE_FILE}, or chat_template in {CONFIG_FILE}",
            found=f"only templates named {', '.join(sorted(self.templates))}" if self.templates else "none",
            next_step=f"Put the model's own template beside the weights as {TEMPLATE_FILE}; a base model has none, and "
            "its prompts need no template.",
        )


def read_folder(path: Path) -> ModelFolder:
    """The templates and special tokens of a model folder.

    Files overrule `chat_template` in tokenizer_config.json, which is a text or a list of named texts, as transformers
    has it. Raises CheckpointError for a folder that is none, ConfigError for files that cannot be read.
    """
    if not path.is_dir():
        raise CheckpointError(
            place=str(path),
            expected="a model folder",
            found="a file" if path.exists() else "nothing",
            next_step="Name the folder that holds tokenizer.json and the chat template.",
        )
    config = _read_object(path / CONFIG_FILE)
    filed = {}
    beside, folder = path / TEMPLATE_FILE, path / TEMPLATE_FOLDER
    if beside.is_file():
        filed["default"] = Template("default", TEMPLATE_FILE, _read_text(beside))
    if folder.is_dir():
        for file in sorted(folder.glob("*.jinja")):
            filed[file.stem] = Template(file.stem, f"{TEMPLATE_FOLDER}/{file.name}", _read_text(file))
    named = _configured(config, path / CONFIG_FILE)
    special = {name: text for name in SPECIAL if (text := _token_text(config.get(name))) is not None}
    if "added_tokens_decoder" not in config:
        # Older folders keep the special tokens in a map of its own, which then counts.
        older = _read_object(path / "special_tokens_map.json")
        special |= {name: text for name in SPECIAL if (text := _token_text(older.get(name))) is not None}
    return ModelFolder(path, filed or named, named if filed else {}, special, config)


def _configured(config: Mapping[str, Any], path: Path) -> dict[str, Template]:
    found = config.get("chat_template")
    if found is None:
        return {}
    entries = {"default": found} if isinstance(found, str) else found
    try:
        if isinstance(entries, list):
            entries = {entry["name"]: entry["template"] for entry in entries}
        if not all(isinstance(part, str) for pair in entries.items() for part in pair):
            raise TypeError("names and templates are texts")
    except (TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, "chat_template as a text, or a list of {name, template}", error) from error
    return {name: Template(name, CONFIG_FILE, text) for name, text in entries.items()}


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, "a JSON object", error) from error
    if not isinstance(content, dict):
        raise _unreadable(path, "a JSON object", TypeError(type(content).__name__))
    return content


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:
        raise _unreadable(path, f"UTF-8 text of at most {LARGEST:,} bytes", error) from error


def _unreadable(path: Path, expected: str, error: Exception) -> ConfigError:
    return ConfigError(
        place=str(path),
        expected=expected,
        found=f"{type(error).__name__}: {error}"[:300],
        next_step="Take the file from the model's own source.",
    )
