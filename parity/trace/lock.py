"""Does a living process write this trace? A lock on the manifest that the kernel drops when its holder dies.

A lock file with a process id in it can be stale, and the id may belong to another process by then. A lock of the
kernel (`flock`) cannot: it lives as long as the writer's open file does. Where a file system has no locks the answer
is no, and what still holds is that the manifest is created exclusively.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


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
