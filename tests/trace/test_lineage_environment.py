"""Does a trace know which weights and which software made it?"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from parity.errors import CheckpointError
from parity.records import Lineage
from parity.trace import capture_environment, hash_weights, lineage_of, write_lineage


def test_lineage_file_comes_before_the_hash(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert lineage_of(tmp_path) == Lineage(hash_weights(tmp_path))
    write_lineage(tmp_path, Lineage("sha256:ab", ("bf16", "fp8_block")))
    assert lineage_of(tmp_path) == Lineage("sha256:ab", ("bf16", "fp8_block"))


def test_hash_sees_one_bit_and_the_name_but_not_other_files(tmp_path: Path) -> None:
    seen = set()
    for value, name in ((0.0, "a"), (-0.0, "a"), (0.0, "b")):
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        save_file({"w": torch.full((3,), value)}, folder / f"{name}.safetensors")
        seen.add(hash_weights(folder))
    assert len(seen) == 3
    (folder / "config.json").write_text("{}")
    assert hash_weights(folder) in seen


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"root": "\\ud800"}',
        '{"root": "a", "root": "b"}',
        '{"root": 3}',
        '{"root": "x", "conversions": "fp8"}',
        '{"root":"x","conversions":[1]}',
    ],
)
def test_lineage_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "lineage.json").write_text(text)
    with pytest.raises(CheckpointError, match="write_lineage"):
        lineage_of(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tensor files"):
        lineage_of(tmp_path)


def test_environment_is_this_process() -> None:
    found = capture_environment(device="cpu", interpreted=True)
    assert found.torch == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert found.interpreted
    assert found.device == "cpu"


def test_versions_are_read_without_importing() -> None:
    code = (
        "import sys, parity.trace as t; t.capture_environment(); "
        "sys.exit(any(name in sys.modules for name in ('triton', 'transformers')))"
    )
    root = str(Path(__file__).resolve().parents[2])
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, check=False).returncode == 0


def test_a_file_is_hashed_once_a_process_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: (read.append(file.name), digest(file, kind))[1])
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"one")
    first = hash_weights(tmp_path)
    assert hash_weights(tmp_path) == first
    assert len(read) == 1
    path.write_bytes(b"two")  # the same size
    os.utime(path, ns=(1, 1))
    second = hash_weights(tmp_path)
    assert second != first
    os.replace(shutil.copy(path, tmp_path / "b"), path)  # the same bytes in another inode: read, not trusted
    assert hash_weights(tmp_path) == second
    assert len(read) == 3
