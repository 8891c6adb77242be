"""Is the kernel left alone, built anew or refused where the compiler or the cache folder is not what it should be?"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from parity.metrics import native, native_state, usable_threads

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and owners of files")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A kernel that was not looked for yet, with an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PARITY_NATIVE", raising=False)
    native._loaded.cache_clear()
    native._warn_once.cache_clear()
    yield tmp_path / "parity-lab"
    native._loaded.cache_clear()
    native._warn_once.cache_clear()


def fake_compiler(folder: Path, text: str, monkeypatch) -> None:
    folder.mkdir()
    (folder / "cc").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize("text", ["exit 1", "exit 0"])
def test_a_compiler_that_makes_nothing_leaves_the_plain_path_and_warns_once(fresh, monkeypatch, tmp_path, text):
    fake_compiler(tmp_path / "bin", text, monkeypatch)
    with pytest.warns(RuntimeWarning, match="no working build"):
        assert native.native_kernel() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.native_kernel() is None
    assert "no working build" in native_state().state
    assert not list(fresh.glob("*.so"))


def test_no_compiler_at_all(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "no C compiler" in native_state().state


def test_the_switch(fresh, monkeypatch):
    monkeypatch.setenv("PARITY_NATIVE", "0")
    assert native_state().kernel is None
    assert not fresh.exists()


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_a_folder_open_to_others_is_not_private(tmp_path, mode):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    assert not native.is_private(folder)
    folder.chmod(0o700)
    assert native.is_private(folder)


def test_a_foreign_owner_and_a_link_are_refused(tmp_path, monkeypatch):
    folder, file = tmp_path / "mine", tmp_path / "mine.so"
    folder.mkdir(mode=0o700)
    file.touch(mode=0o600)
    (tmp_path / "link").symlink_to(folder)
    assert native.is_own_file(file)
    assert not native.is_private(tmp_path / "link")
    owner = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert not native.is_private(folder)
    assert not native.is_own_file(file)


def test_threads_follow_the_environment_then_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usable_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_threads() == 7
