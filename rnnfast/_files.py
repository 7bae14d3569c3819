"""Regular files, which alone are read and replaced: others may have no end, or be the machine's."""

import os
import stat
from pathlib import Path
from typing import IO

from .errors import InputError

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
# a pipe that has just taken a file's place would wait for somebody who writes into it
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike[str], what: str = "") -> IO[bytes]:
    """A regular file, opened to be read as bytes, after links were followed.

    `what` is what to call it in an error. Raises InputError where there is none, where it is a
    pipe, a device, a socket or a folder, which are not opened, and where it cannot be read.
    """
    name = f"{what} {path}".lstrip()

    def opened(path: str, _: int) -> int:
        descriptor = os.open(path, FLAGS)
        try:
            _require_regular(name, os.fstat(descriptor))
        except InputError:
            os.close(descriptor)
            raise
        return descriptor

    try:
        _require_regular(name, Path(path).stat())  # before: opening a device may do something
        return open(path, "rb", opener=opened)
    except FileNotFoundError:
        raise InputError(f"{name} does not exist; check the path") from None
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}; check the path") from error
    except InputError:
        raise
    except ValueError as error:  # a zero in it
        raise InputError(f"{name!r} is no path: {error}") from error


def require_replaceable(path: Path) -> os.stat_result | None:
    """The status of the regular file at a path, after links were followed; None where none is.

    Raises InputError where a device, a pipe, a socket or a folder would be lost, and where the path
    is none. A link is replaced, whatever it leads to, but for those in /dev.
    """
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) and os.path.realpath(path.parent) == "/dev":  # /dev/stdout, for one
            mode = stat.S_IFCHR
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            status = path.stat()
            return status if stat.S_ISREG(status.st_mode) else None
    except OSError:  # nothing is there, or whoever writes is told why not
        return None
    except ValueError as error:  # a zero in it
        raise InputError(f"{str(path)!r} is no path: {error}; give the name of a file") from error
    raise InputError(f"{path} is {_kind(mode)}, expected a file; move it, or give another name")


def _kind(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "something else")


def _require_regular(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _kind(status.st_mode)
        do = "give a file" if kind == "a folder" else "write what comes from there to a file first"
        raise InputError(f"{name} is {kind}, and only regular files are read; {do}")
