"""Is the kernel left alone, built anew or refused where the compiler or the cache folder is not what it should be?"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
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


@pytest.fixture
def stub(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "moments.c"
    path.write_text(STUB)
    monkeypatch.setattr(native, "SOURCE", path)
    return path


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


STUB = "int parity_selftest(void) { return 0; }\nvoid parity_moments(int y, int x, const void *work) {}\n"
"""A kernel that is built at once, where only its making is looked at."""

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here")


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flipped(raw: bytes) -> bytes:
    """One bit, inside the code: the file still loads."""
    at = len(raw) // 2
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@needs_compiler
def test_a_damaged_build_is_built_anew(fresh, stub):
    def kept() -> Path:
        native._loaded.cache_clear()
        assert native_state().state.startswith("compiled C")
        (path,) = fresh.glob("moments-*.so")
        return path

    built = kept()
    whole, made = built.read_bytes(), built.stat().st_mtime_ns
    assert kept().stat().st_mtime_ns == made  # a sound one is taken as it is
    for damage in (cut, flipped, lambda raw: b"", lambda raw: b"no library at all"):
        built.unlink()  # loaded above: the mapped file itself must stay as it is
        built.write_bytes(damage(whole))
        built.chmod(0o600)
        built = kept()
        assert built.read_bytes() == whole


@needs_compiler
def test_two_builds_in_one_process_are_two_kernels(fresh, stub):
    """Both are opened by the same descriptor, one after the other."""
    fresh.mkdir(mode=0o700)
    first = native._open(native._build("cc", fresh, "a-"))
    stub.write_text("int other;\n" + STUB)
    second = native._open(native._build("cc", fresh, "b-"))
    assert first is not None
    assert second is not None
    assert ctypes.cast(first, ctypes.c_void_p).value != ctypes.cast(second, ctypes.c_void_p).value


@needs_compiler
def test_a_damaged_build_in_a_folder_that_takes_no_new_file_leaves_the_plain_path(fresh, stub, monkeypatch):
    native_state()
    (path,) = fresh.glob("moments-*.so")
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(cut(raw))
    path.chmod(0o600)
    monkeypatch.setattr(native, "_build", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
    native._loaded.cache_clear()
    assert native_state().state == "plain torch: no space left on device"


BUILD = """
import sys
from pathlib import Path
from parity.metrics import native
native.SOURCE = Path(sys.argv[1])
print(native.native_state().state)
"""


@needs_compiler
def test_processes_that_build_at_once_all_get_a_kernel(fresh, stub):
    told = [
        subprocess.Popen([sys.executable, "-c", BUILD, str(stub)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert all(one.communicate(timeout=120)[0].startswith("compiled C") for one in told)
    assert not list(fresh.glob("build-*"))


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
