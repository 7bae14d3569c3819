"""Locks on files, which end with the process that has them."""

import errno
import os
from typing import IO, Any

if os.name == "posix":
    import fcntl

# of file systems that have no locks: who writes there does without
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


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
