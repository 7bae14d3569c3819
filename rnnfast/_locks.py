"""Locks on files, which end with the process that has them."""

import errno
import os
from pathlib import Path
from typing import IO, Any

if os.name == "posix":
    import fcntl

# of file systems that have no locks: who writes there does without
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def open_locked(path: Path, mode: str) -> IO[Any] | None:
    """The file at a path, open, and locked until it is closed; None where somebody else has it."""
    while True:
        file = open(path, mode)  # noqa: SIM115 - it stays open
        try:
            if not try_lock(file):
                file.close()
                return None
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # somebody has removed it, who had it before


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; False where somebody else has locked it.

    True without a lock where the system or the file system has none.
    """
    if os.name != "posix":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
