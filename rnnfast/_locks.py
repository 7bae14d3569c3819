"""Locks on files, which end with the process that has them."""

import errno
import os
import stat
from pathlib import Path
from typing import IO, Any

if os.name == "posix":
    import fcntl

# of file systems that have no locks
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

# a link is not followed, nor a pipe waited for
AS_IT_IS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def open_locked(path: Path) -> IO[bytes] | None:
    """The file at a path, which is made where there is none, locked until it is closed; None where
    somebody else has locked it.

    Nothing that stands for another file is opened, nor what is no file.
    """
    flags = os.O_RDWR | os.O_CREAT | AS_IT_IS
    while True:
        file = open(os.open(path, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115 - it stays open
        try:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileExistsError(errno.EEXIST, "it is no file", str(path))
            if try_lock(file) is False:
                file.close()
                return None
            if is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # somebody has removed it, who had it before


def is_locked(path: Path) -> bool:
    """Whether somebody has locked the file at a path; of a link, or of what is no file, nobody has,
    nor is it opened."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with open(os.open(path, os.O_RDONLY | AS_IT_IS), "rb") as file:
            return try_lock(file) is False
    except FileNotFoundError:
        return False


def is_at(file: IO[Any], path: Path) -> bool:
    """Whether an open file is the one at a path, which another may have removed."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except (FileNotFoundError, NotADirectoryError):
        return False


def try_lock(file: IO[Any], *, wait: bool = False) -> bool | None:
    """Lock an open file until it is closed; False where somebody else has locked it, None where the
    system or the file system has no locks."""
    if os.name != "posix":
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True
