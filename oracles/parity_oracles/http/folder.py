"""Which model is the server said to run? What its folder on this machine tells: sizes, lineage, tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from parity.errors import CheckpointError, ConfigError, UsageError
from parity.records import Lineage
from parity.stages import FAMILIES
from parity.trace import lineage_of
from parity.trace.jsontext import is_count, parse_json

NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class ServedModel:
    """vocab: number of ids. layers, family: 0 and `http` where no folder tells. max_positions: NO_LIMIT likewise."""

    vocab: int
    folder: Path | None = None
    family: str = "http"
    layers: int = 0
    max_positions: int = NO_LIMIT
    lineage: Lineage = field(default_factory=lambda: Lineage("unknown"))


def read_served(folder: str | None, vocab: int | None) -> ServedModel:
    """The model in `folder`, or one of which only the number of ids is known.

    Raises UsageError without either, ConfigError for a folder whose config.json gives no vocab_size.
    """
    if (vocab is not None and vocab < 1) or (vocab is None and folder is None):
        raise UsageError(
            place="runner http",
            expected="the model's folder (option folder=DIR), or the number of its ids (option vocab=N)",
            found="neither" if vocab is None else f"vocab {vocab}",
            next_step="A server does not tell how many ids its model has: give the folder that it serves.",
        )
    if folder is None:
        assert vocab is not None
        return ServedModel(vocab)
    path = Path(folder)
    try:
        content = parse_json((path / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        content = str(error)
    inner = {**content, **content.get("text_config", {})} if isinstance(content, dict) else {}
    size = vocab or inner.get("vocab_size")
    if not is_count(size) or not size:
        raise ConfigError(
            place=str(path / "config.json"),
            expected="a config.json with vocab_size",
            found=repr(content)[:120] if not inner else f"vocab_size {size!r}",
            next_step="Name the folder of the model that the server runs.",
        )
    layers, most = inner.get("num_hidden_layers"), inner.get("max_position_embeddings")
    try:
        lineage = lineage_of(path)
    except CheckpointError:
        lineage = Lineage("unknown")  # a folder of tokenizer and config alone
    family = inner.get("model_type")
    return ServedModel(
        vocab=size,
        folder=path,
        family=family if isinstance(family, str) and family in FAMILIES else "http",
        layers=layers if is_count(layers) else 0,
        max_positions=most if is_count(most) and most else NO_LIMIT,
        lineage=lineage,
    )
