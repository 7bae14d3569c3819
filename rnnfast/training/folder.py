"""Who may write into a run folder: one thread of one process at a time."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from .._locks import try_lock
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
        while True:
            file = open(path, "a+")  # noqa: SIM115 - it stays open
            try:
                if not try_lock(file):
                    file.seek(0)
                    raise FolderInUse(
                        f"run folder {folder} is in use by process {file.read(20).strip()}; wait "
                        "for it, or give another --out"
                    )
                if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    file.truncate(0)
                    print(os.getpid(), file=file, flush=True)
                    return file
            except BaseException:
                file.close()
                raise
            file.close()  # somebody has removed it, who had it before
    except OSError as error:
        raise InputError(
            f"run folder {folder} cannot be written: {error.strerror}; give another --out"
        ) from error
