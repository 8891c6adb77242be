"""What does a failing disk leave, and what is its owner to do? An OSError as an error that says so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from parity.errors import TraceError


class DiskError(TraceError):
    """The disk refused to take a trace, or the rest of one: it is full, failing, or over a limit."""


class FolderError(TraceError):
    """The folder for a trace cannot be made or written; nothing was begun."""


class TakenError(TraceError):
    """The folder holds a trace already. `living`: a process is writing it now."""

    living: bool = False


_NEXT = {
    errno.ENOSPC: "Free room on that file system or capture to another; narrow layers, stages or tokens to need less.",
    errno.EDQUOT: "Raise the quota or capture elsewhere; narrow layers, stages or tokens to need less.",
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f) or capture elsewhere.",
    errno.EROFS: "Capture into a folder on a file system that can be written.",
    errno.EACCES: "Capture into a folder that this user may write.",
    errno.EPERM: "Capture into a folder that this user may write.",
    errno.EIO: "Look at the system's log: the device reports errors. Capture to another one.",
}


def disk_failure(error: OSError, path: Path, *, written: str, readable: bool = False) -> DiskError:
    """The DiskError for an operation on `path` that the system refused.

    written: how much of the trace is on the disk, in words; readable: whether that much can be opened.
    """
    code = errno.errorcode.get(error.errno or 0, "no number")
    return DiskError(
        place=str(error.filename or path),
        expected="a disk that takes the trace",
        found=f"{error.strerror or error} ({code}); written before that: {written}",
        next_step=_NEXT.get(error.errno or 0, "Capture into another folder.")
        + (" What was written can be read, as an incomplete trace." if readable else ""),
    )


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; raises FolderError where a file is in the way or it may not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission to write", str(folder))
    except (OSError, ValueError) as error:
        raise FolderError(
            place=str(folder),
            expected="a folder that can be made and written",
            found=(error.strerror if isinstance(error, OSError) else None) or str(error),
            next_step="Name another folder for the trace.",
        ) from error
