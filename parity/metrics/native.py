"""Is there a compiled kernel for moments on this machine, and how is it built, kept and loaded?

`moments.c` is compiled by the system's C compiler on first use, for this processor, into the user's cache folder.
Loading code from a folder is trusting whoever can write there: the folder and the file must belong to the user and
nobody else may write to them, else a private temporary folder is built in. Whatever fails (no compiler, no folder, a
build that does not run) leaves the plain torch path in force, and a warning says so once.

A build is kept under a name that holds the hash of its own bytes: one that was cut short or altered is not loaded,
which might kill the process, but built anew. Processes that build at once do so each for itself; the last one puts
its file in place of an equal one.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("moments.c")
_INCLUDED = tuple(SOURCE.with_name(name) for name in ("formats.h", "cells.h", "bound.h"))
SWITCH = "PARITY_NATIVE"
"""Environment variable; `0` keeps to the plain path."""

# The first that the compiler accepts and whose build passes the self-test. 512-bit registers must be asked for.
_FLAGS = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())
_COMMON = ("-O3", "-std=gnu11", "-fno-fast-math", "-ffp-contract=fast", "-shared", "-fPIC", "-w")
_TIMEOUT = 120  # seconds for one compilation; it takes about 9
_SELF_TEST = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).parity_selftest())"

_loads = itertools.count()

Kernel = Callable[[int, int, int], None]


class Work(ctypes.Structure):
    """`Work` of moments.c, field for field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("y", "x")),
        *((name, ctypes.c_int64) for name in ("stride_y", "stride_x", "rows", "cells")),
        *((name, ctypes.c_void_p) for name in ("edges", "group", "sums", "counts", "column_sums", "column_counts")),
        *((name, ctypes.c_void_p) for name in ("bound", "room", "room_counts")),
    ]


class Bound(ctypes.Structure):
    """`Bound` of moments.c, field for field. held: what `sample` points into, kept alive with it."""

    held: object

    _fields_ = [
        *((name, ctypes.c_double) for name in ("relative", "absolute", "drift", "inside", "spreads", "chance")),
        *((name, ctypes.c_int64) for name in ("together", "least", "samples")),
        ("sample", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Native:
    """kernel: `parity_moments`, None where the plain path is in force. state: which path, and why, in words."""

    kernel: Kernel | None
    state: str


def native_kernel() -> Kernel | None:
    """The compiled kernel, built if need be; None where there is none: the first such call warns."""
    return _warned().kernel


def native_state() -> Native:
    """Which path is in force, without a warning."""
    if os.environ.get(SWITCH) == "0":
        return Native(None, f"plain torch: {SWITCH}=0")
    return _loaded()


@cache
def _warn_once(state: str) -> None:
    warnings.warn(f"comparisons are slow here: {state}; results are the same", RuntimeWarning, stacklevel=5)


def _warned() -> Native:
    native = native_state()
    if native.kernel is None and os.environ.get(SWITCH) != "0":
        _warn_once(native.state)
    return native


@cache
def _loaded() -> Native:
    try:
        return _load()
    except (OSError, ValueError, AttributeError, RuntimeError, subprocess.SubprocessError) as error:
        return Native(None, f"plain torch: {error}")


def _load() -> Native:
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return Native(None, "plain torch: no C compiler (cc, gcc or clang) on PATH")
    prefix = f"moments-{_fingerprint(compiler)}-"
    folder = cache_folder()
    if is_private(folder, make=True):
        for kept in sorted(folder.glob(f"{prefix}*.so")):
            if is_own_file(kept) and (kernel := _open(kept)) is not None:
                return Native(kernel, f"compiled C, {kept}")
            _discard(kept)
        made = _build(compiler, folder, prefix)
        return Native(_opened(made), f"compiled C, {made}")
    # The library stays loaded when its file is gone.
    with tempfile.TemporaryDirectory(prefix="parity-") as private:
        made = _build(compiler, Path(private), prefix)
        return Native(_opened(made), f"compiled C, anew in each process: {folder} is not private")


def cache_folder() -> Path:
    """Where builds are kept: parity-lab below XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "parity-lab"


def is_private(folder: Path, *, make: bool = False) -> bool:
    """A real directory (no link) of this user that nobody else may write to or read; made as such on demand."""
    try:
        if make:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def is_own_file(path: Path) -> bool:
    """A regular file (no link) of this user that nobody else may write to."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _fingerprint(compiler: str) -> str:
    """Of everything a build depends on: source, flags, compiler and processor."""
    tool = Path(compiler).resolve()
    about = tool.stat()
    texts = [path.read_text() for path in (SOURCE, *_INCLUDED)]
    parts = (texts, _FLAGS, _COMMON, str(tool), about.st_size, about.st_mtime_ns, _processor())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    lines = {platform.machine(), platform.processor()}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        kept = ("flags", "Features", "model name", "CPU part", "CPU implementer")
        lines |= {line for line in info.read_text().splitlines() if line.startswith(kept)}
    return "\n".join(sorted(lines))


def _build(compiler: str, folder: Path, prefix: str) -> Path:
    """Compile, test in a process of its own (an instruction this processor lacks would end it), then put in place."""
    handle, made = tempfile.mkstemp(prefix="build-", suffix=".so", dir=folder)
    os.close(handle)
    complaint = ""
    try:
        for flags in _FLAGS:
            command = [compiler, *_COMMON, *flags, "-o", made, str(SOURCE), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
            if done.returncode:
                complaint = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
                continue
            test = subprocess.run([sys.executable, "-I", "-S", "-c", _SELF_TEST, made], timeout=_TIMEOUT, check=False)
            if not test.returncode:
                os.chmod(made, 0o600)
                place = folder / f"{prefix}{_hash(Path(made).read_bytes())}.so"
                os.replace(made, place)
                return place
            complaint = f"the build's self-test ended with {test.returncode}"
        raise RuntimeError(f"{compiler} gave no working build of {SOURCE.name}: {complaint}")
    finally:
        Path(made).unlink(missing_ok=True)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _discard(path: Path) -> None:
    """A damaged build is of no use to anyone; one that cannot be removed is passed over."""
    with contextlib.suppress(OSError):
        path.unlink()


def _opened(path: Path) -> Kernel:
    kernel = _open(path)
    if kernel is None:
        raise RuntimeError(f"{path} was altered as soon as it was built")
    return kernel


def _open(path: Path) -> Kernel | None:
    """Load the very file that was checked: by its descriptor, where the system can. None for one that was altered."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise RuntimeError(f"{path} may be written by others")
        with open(handle, "rb", closefd=False) as file:
            if not path.stem.endswith(_hash(file.read())):
                return None
        # The loader takes a name it knows for the library it knows, and descriptors come again: no name twice.
        by_handle = f"/proc/self/fd/{'./' * next(_loads)}{handle}"
        library = ctypes.CDLL(by_handle if os.path.exists(by_handle) else str(path))
    finally:
        os.close(handle)
    kernel = library.parity_moments
    kernel.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    kernel.restype = None
    return kernel
