"""Which weights are these? The lineage of a checkpoint folder: its root's hash and the conversions since."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from parity.errors import CheckpointError
from parity.records import Lineage, as_json
from parity.trace.jsontext import parse_json

LINEAGE = "lineage.json"
_PATTERNS = ("*.safetensors", "*.gguf", "*.bin")


def lineage_of(folder: str | Path) -> Lineage:
    """The lineage of the weights in `folder`: `lineage.json` if it is there, else the hash of the tensor files.

    `lineage.json` is `{"root": "sha256:...", "conversions": ["..."]}`; a converter writes it, so that a BF16 checkpoint
    and its FP8 conversion can be compared. Raises CheckpointError for one of another form, or without tensor files.
    """
    folder = Path(folder)
    path = folder / LINEAGE
    if not path.is_file():
        return Lineage(root=hash_weights(folder))
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        value = str(error)
    conversions = value.get("conversions", []) if isinstance(value, dict) else None
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("root"), str)
        or not isinstance(conversions, list)
        or not all(isinstance(step, str) for step in conversions)
    ):
        raise CheckpointError(
            place=str(path),
            expected='{"root": "sha256:...", "conversions": ["..."]}',
            found=repr(value)[:200],
            next_step="Write it again with parity.trace.write_lineage, or remove it.",
        )
    return Lineage(root=value["root"], conversions=tuple(conversions))


def write_lineage(folder: str | Path, lineage: Lineage) -> None:
    """Write `lineage.json` beside the weights in `folder`."""
    (Path(folder) / LINEAGE).write_text(json.dumps(as_json(lineage), indent=2) + "\n", encoding="utf-8")


def hash_weights(folder: str | Path) -> str:
    """`sha256:` and the hash over names and contents of the tensor files directly in `folder`, sorted by name.

    A file's hash is kept for the life of the process and read again when its path, size, time of change (ns), inode or
    device differ, so that several runners on one folder read its bytes once. A file that was altered in place with its
    times put back is not noticed; another process notices. Raises CheckpointError when there are none.
    """
    folder = Path(folder)
    files = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
    if not files:
        raise CheckpointError(
            place=str(folder),
            expected="tensor files: " + ", ".join(_PATTERNS),
            found="none",
            next_step="Name the folder that holds the weights.",
        )
    total = hashlib.sha256()
    for path in files:
        now = path.stat()
        content = _hash_file(str(path.resolve()), now.st_size, now.st_mtime_ns, now.st_ino, now.st_dev)
        total.update(f"{path.name} {content}\n".encode())
    return f"sha256:{total.hexdigest()}"


@lru_cache(maxsize=4096)
def _hash_file(path: str, *_identity: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
