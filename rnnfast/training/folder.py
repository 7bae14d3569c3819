"""Who may write into a run folder: one thread of one process at a time."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from .._locks import open_locked
from ..errors import InputError

LOCK = ".lock"
_held: dict[Path, tuple[int, int]] = {}  # thread that has a folder, and how often it asked for it
_mutex = threading.Lock()  # of these


class FolderInUse(InputError):
    """Somebody else writes into a run folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it, no other thread of any process is; the folder is made where there is none, and
    removed with the folders around it that were made too, if nothing has been put there.

    The lock ends with the process, however that ends. Raises FolderInUse where somebody else has
    it, InputError where the folder cannot be written.
    """
    place, thread = folder.resolve(), threading.get_ident()
    with _mutex:
        owner, depth = _held.get(place, (thread, 0))
        if owner != thread:
            raise FolderInUse(
                f"run folder {folder} is in use by another thread of this process; wait for it, or "
                "take another folder"
            )
        _held[place] = thread, depth + 1
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        with nullcontext() if depth else _locked_file(folder):
            try:
                yield
            finally:
                if not depth:
                    with suppress(OSError):  # rmdir refuses what is not empty
                        (folder / LOCK).unlink()
                        for part in missing:
                            part.rmdir()
    finally:
        with _mutex:
            if depth:
                _held[place] = thread, depth
            else:
                del _held[place]


def _locked_file(folder: Path) -> IO[str]:
    """The open file of a folder's lock; it is locked until it is closed."""
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_locked(path, "a+")
        if file is None:
            raise FolderInUse(
                f"run folder {folder} is in use by process {path.read_text().strip()}; wait for "
                "it, or give another --out"
            )
        with suppress(OSError):  # of a full disk: it is locked anyway
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()}\n".encode())
        return file
    except OSError as error:
        raise InputError(
            f"run folder {folder} cannot be written: {error.strerror}; give another --out"
        ) from error
