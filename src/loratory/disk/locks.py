"""The kernel's locks on files, and file systems that have none."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import FileLock

NO_LOCKS = "this file system has no locks (flock)"

_NONE = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
"""What flock answers there, as on Lustre without `-o flock`, or on NFS without its lock daemon."""


def kernel_lock(path: Path, *, timeout: float = -1) -> FileLock:
    """The kernel's lock on the file `path`, which ends with its process; where there is none, taking it is an OSError.

    filelock would else take a file's mere presence for the lock, which outlasts a process that is killed.

    Args:
        timeout: seconds; below 0 there is no end of waiting.
    """
    return FileLock(path, timeout=timeout, fallback_to_soft=False)


def lacks_locks(error: OSError) -> bool:
    """Whether taking a lock failed because the file system has none."""
    return error.errno in _NONE
