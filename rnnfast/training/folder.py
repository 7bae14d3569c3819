"""Who may write into a run folder: one thread of one process at a time."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .._files import open_regular
from .._locks import is_at, open_locked
from ..errors import InputError

LOCK = ".lock"
NUMBER_MOST = 20  # digits
ATTEMPTS = 100  # where others come and leave at the same time
# Thread that has a folder, how often it asked for it, and where that is. By the name that it asked
# for first: the folder may be moved then, and a link put in its place.
_held: dict[str, tuple[int, int, Path]] = {}
_files: dict[str, IO[bytes]] = {}  # their locks
_mutex = threading.Lock()  # of both


class FolderInUse(InputError):
    """Somebody else writes into a run folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it, no other thread of any process is; the folder is made where there is none, and
    removed with the folders around it that were made too, if nothing has been put there.

    The lock ends with the process, however that ends; a child made by fork does not have it. Where
    its file is no longer in the folder when it is asked for again, it is taken again. Raises
    FolderInUse where somebody else has it, InputError where the folder cannot be written.
    """
    try:
        name, place = str(folder.absolute()), folder.resolve()
        missing = [part for part in (place, *place.parents) if not part.exists()]
    except (RuntimeError, ValueError) as error:  # a loop of links, before Python 3.13; a zero
        raise InputError(
            f"run folder {str(folder)!r} is no path: {error}; give another --out"
        ) from error
    except OSError as error:
        raise cannot_be_written(folder, error) from error
    thread, process = threading.get_ident(), os.getpid()
    with _mutex:
        if name not in _held:  # it may have another one
            name = next((one for one, held in _held.items() if held[-1] == place), name)
        owner, depth, before = _held.get(name, (thread, 0, place))
        if owner != thread:
            raise FolderInUse(
                f"run folder {folder} is in use by another thread of this process; wait for it, or "
                "take another folder"
            )
        _held[name] = thread, depth + 1, place
    try:
        if not depth:
            _files[name] = _locked_file(folder, place)
        elif not _is_in(_files[name], folder, place):
            gone, _files[name] = _files[name], _locked_file(folder, place)
            _give_up(gone, before)
        yield
    finally:
        if os.getpid() == process:
            try:
                if not depth:
                    _leave(name, missing)
            finally:  # afterwards: who comes then finds no lock of this process
                with _mutex:
                    if depth:
                        _held[name] = thread, depth, _held[name][-1]
                    else:
                        del _held[name]


def who_has(folder: Path) -> str:
    """The number of the process that has locked a folder, if it has put it there by now."""
    try:
        with open_regular(folder / LOCK) as file:
            who = file.read(NUMBER_MOST).decode(errors="replace").strip()
    except InputError:  # it has just gone
        return ""
    return who if who.isdecimal() else ""


def _leave(name: str, missing: list[Path]) -> None:
    file = _files.pop(name, None)
    if file is not None:
        _give_up(file, _held[name][-1])
    with suppress(OSError):  # rmdir refuses what is not empty
        for part in missing:
            part.rmdir()


def _give_up(file: IO[bytes], place: Path) -> None:
    """Unlock a folder, and remove the file of its lock, if that is still the one."""
    with suppress(OSError):
        if is_at(file, place / LOCK):
            (place / LOCK).unlink()
    file.close()


def _is_in(file: IO[bytes], folder: Path, place: Path) -> bool:
    """Whether the lock of a folder is still there."""
    try:
        return is_at(file, place / LOCK)
    except OSError as error:
        raise cannot_be_written(folder, error) from error


def _locked_file(folder: Path, place: Path) -> IO[bytes]:
    """The open file of a folder's lock; it is locked until it is closed."""
    for attempt in range(ATTEMPTS):
        try:
            place.mkdir(parents=True, exist_ok=True)
            file = open_locked(place / LOCK)
            if file is None:
                who = who_has(place)
        except FileNotFoundError as error:  # whoever has left has removed it
            if attempt == ATTEMPTS - 1:
                raise cannot_be_written(folder, error) from error
            continue
        except OSError as error:
            raise cannot_be_written(folder, error) from error
        if file is not None:
            break
        # somebody who looks whether it is locked has it for a moment
        if (who and attempt) or attempt == ATTEMPTS - 1:
            raise FolderInUse(
                f"run folder {folder} is in use by process {who or '(unknown)'}; wait for it, or "
                "give another --out"
            )
    assert file is not None
    try:
        require_lock(place, file)
    except InputError:
        file.close()
        raise
    with suppress(OSError):  # of a full disk: it is locked anyway
        file.truncate(0)
        file.seek(0)
        file.write(f"{os.getpid()}\n".encode())
    return file


def require_lock(place: Path, file: IO[bytes]) -> None:
    """Raise InputError for a file of a folder that somebody has called as its lock is."""
    content = file.read(NUMBER_MOST).strip(b"\0\r\n ")  # zeros, after a power cut
    if content and not content.isdigit():
        raise InputError(
            f"{place / LOCK}: expected the number of a process, got something else, which is not "
            "written over; move it, or give another --out"
        )


def cannot_be_written(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"run folder {folder} cannot be written: {error.strerror}; give another --out"
    )


def _forget() -> None:
    """In a child made by fork: the locks are those of its parent, and of its threads."""
    global _mutex  # noqa: PLW0603 - a lock that somebody had is had for ever
    _mutex = threading.Lock()
    for file in _files.values():
        file.close()
    _files.clear()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
