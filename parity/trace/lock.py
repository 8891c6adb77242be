"""Does a living process write this trace? A lock on the manifest that the kernel drops when its holder dies.

A lock file with a process id in it can be stale, and the id may belong to another process by then. A lock of the
kernel (`flock`) cannot: it lives as long as the writer's open file does. Where a file system has no locks the answer
is no, and what still holds is that the manifest is created exclusively.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from parity.trace.failure import TakenError


def hold(handle: int) -> bool:
    """Lock an open file until it is closed or its process dies; False when another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks here: ENOLCK or ENOTSUP of a network file system
    return True


def is_held(path: Path) -> bool:
    """True when a living process holds the file at `path`; False when none does, or there is no such plain file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        # Shared, so that two readers that ask at the same time do not take each other for a writer.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def taken(path: Path) -> TakenError:
    """Why `path` cannot be made: a living process writes it, or what a process that is gone left lies there."""
    living = is_held(path)
    if living:
        found = f"a {path.name} that another process is writing now"
        next_step = "Give each process a folder of its own."
    else:
        found = f"a {path.name} in it, whose writer is gone"
        next_step = "Choose another folder, or remove the old trace first."
    error = TakenError(place=str(path.parent), expected="a folder without a trace", found=found, next_step=next_step)
    error.living = living
    return error


class Claim:
    """The right to make the file at `path`, all at once, later: a draft beside it, held by this process.

    The draft of a dead process is taken over. Raises TakenError when the file is there or another process holds the
    draft, OSError when it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(f"{path.name}.part")
        self._handle = os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if not hold(self._handle):
            os.close(self._handle)
            error = taken(self._draft)
            error.living = True
            raise error
        if os.path.lexists(path) or not self._is_ours():
            self.release()
            raise taken(path)

    def publish(self, content: bytes) -> None:
        """Write the draft, flush it to the disk and give it its name: whole or not at all."""
        os.ftruncate(self._handle, 0)
        rest = memoryview(content)
        while len(rest):
            rest = rest[os.write(self._handle, rest) :]
        os.fsync(self._handle)
        os.replace(self._draft, self.path)
        os.close(self._handle)

    def release(self) -> None:
        """Give the claim up and remove the draft."""
        with suppress(OSError):
            if self._is_ours():
                self._draft.unlink()
        os.close(self._handle)

    def _is_ours(self) -> bool:
        """Whether the draft is still the file that is held: its holder may have published it meanwhile."""
        try:
            found = os.stat(self._draft, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._handle))
