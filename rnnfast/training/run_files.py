"""The files of a run folder: `last.npz` to resume from, `best.npz` to use, `history.csv`."""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._files import open_regular, require_replaceable
from .._types import Array
from ..archive import FORMATS, naming, remove_leftovers, save_archive, write_atomically
from ..errors import InputError, as_word
from .checkpoint import require_finite
from .fields import require_meta
from .history import Record, as_csv, taken_from

FILES = LAST, BEST, HISTORY = "last.npz", "best.npz", "history.csv"
END_OF_ARCHIVE = 1 << 16  # bytes


def is_taken(folder: Path) -> bool:
    """Whether a folder has a file that a run would write."""
    return any((folder / name).exists() for name in FILES)


def holds_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has the checkpoint of a run."""
    return (Path(folder) / LAST).exists()


def no_run(folder: Path) -> InputError:
    if is_taken(folder):
        return InputError(
            f"{folder} has no {LAST}, from which a run is resumed; put that back, or start a new "
            "run with another --out"
        )
    return InputError(f"{folder} holds no run; `rnnfast train --out {as_word(folder)}` makes one")


def require_no_run(folder: Path) -> None:
    """Raise InputError where a folder has files of one."""
    if is_taken(folder):
        raise InputError(
            f"{folder} already holds a run; continue it with --resume, or give another --out"
            if holds_run(folder)
            else f"{folder} holds files of a run, without its {LAST}; give another --out"
        )


class RunFiles:
    """The folder of one run, which is the only one that goes on writing there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = folder.absolute()  # whatever a callback does to the working folder
        self._lines: int | None = None  # of the history that this run has put into history.csv
        self.seen: tuple[int, ...] = ()  # which last.npz this run was read from, or has written
        self._has_begun = False  # to write: what is there is of this run

    def identity(self) -> tuple[int, ...]:
        """Which last.npz is there: its size, and a checksum of its end, where an archive has those
        of all that is in it."""
        try:
            with open_regular(self.place / LAST) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - END_OF_ARCHIVE))
                return size, zlib.crc32(file.read())
        except (FileNotFoundError, InputError):
            return ()

    def require_place(self) -> None:
        """Raise InputError where another run has written there since, and where something else than
        a file is in the way."""
        for name in FILES:
            if not (name == HISTORY and (self.place / name).is_fifo()):  # which is removed
                require_replaceable(self.place / name)
        if self.identity() not in ((), self.seen):
            raise InputError(
                f"{self.folder}: expected {LAST} as this run has read or written it, got that of "
                "another one that was trained since; Run.resume carries on from there"
            )

    def write(
        self,
        arrays: Mapping[str, Array],
        meta: Mapping[str, Any],
        position: Mapping[str, Any],
        history: Sequence[Record],
        best: Mapping[str, Array] | None,
    ) -> None:
        """Write the arrays of a trainer and its position, and first the arrays of `best.npz`, where
        these are the best. The folder is made where there is none.

        Raises InputError for what could not be read again; nothing is written then.
        """
        last = {**meta, "position": position}
        self._require_readable(arrays, last)
        self.place.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        self.require_place()
        self._has_begun = True
        is_new = not holds_run(self.place)
        for name in FILES:  # else what a kill has left of one that is seldom written stays
            remove_leftovers(self.place / name)
        if is_new:  # nothing else is a run, nor may it be in the way of one
            self._write_last(arrays, last)
        if best is not None:
            save_archive(self.place / BEST, "checkpoint", best, meta)
        self._write_history(history)
        if not is_new:  # the others are made again from the one before
            self._write_last(arrays, last)

    def _require_readable(self, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        try:
            require_meta(FORMATS["checkpoint"][-1], json.loads(json.dumps(meta)), resumable=True)
            for name, array in taken_from(arrays)[1].items():
                require_finite(name, array)
        except InputError as error:
            raise InputError(
                f"{self.folder / LAST}: not written, since it could not be read again, and what "
                f"was saved before is kept: {error}"
            ) from error

    def _write_last(self, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        try:
            save_archive(self.place / LAST, "checkpoint", arrays, meta)
        finally:  # after Ctrl-C, too
            self.seen = self.identity()

    def _write_history(self, history: Sequence[Record]) -> None:
        """Append what is new; the first time, the file is made that of this history."""
        path, written = self.place / HISTORY, self._lines
        self._lines = None  # after an error, all of it is written again
        if path.is_fifo():  # it would wait for a reader
            path.unlink()
        if written is not None and path.is_file() and not path.is_symlink():
            with naming(path), open(path, "ab") as file:
                file.write(as_csv(history[written:]))
                file.flush()
                os.fsync(file.fileno())
        else:
            content = as_csv(history, header=True)
            write_atomically(path, lambda file: file.write(content))
        self._lines = len(history)

    def remove_half(self) -> None:
        """Leave nothing of a run that could not be saved for the first time."""
        # without the last it is no run that can be resumed
        for name in (HISTORY, LAST) if self._has_begun else ():
            with suppress(OSError):
                (self.place / name).unlink()
