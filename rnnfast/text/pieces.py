"""Texts larger than memory: files are read piece by piece, and their ids are kept in a file."""

import codecs
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np

from .._files import open_regular
from .._types import Array
from ..errors import InputError

PIECE = 1 << 20  # bytes of a file that are read at once
IN_MEMORY = 1 << 25  # bytes of ids; where there are more, they go to a file

OnRead: TypeAlias = Callable[[int], object]


class NotText(InputError):
    """A file is not text in UTF-8; the message says which byte of it."""


def read_pieces(path: str | os.PathLike[str], on_read: OnRead | None = None) -> Iterator[str]:
    """The text of a UTF-8 file, piece by piece, that `load_text` has as a whole.

    `on_read` is called with the number of bytes of every piece. Raises what `load_text` raises,
    maybe after some pieces.
    """
    path = Path(path)
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    size, characters, begun, wrong = 0, 0, False, ""
    for data in chain(_read(path), [b""]):
        if (zero := data.find(b"\0")) >= 0:
            raise NotText(
                f"text file {path} is binary: byte {size + zero} is zero; give plain text in UTF-8"
            )
        size += len(data)
        if on_read and data:
            on_read(len(data))
        if wrong:  # a zero further on would say more
            continue
        try:
            piece = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = size - len(error.object) + error.start  # maybe in the piece before
            wrong = f"byte {at} is 0x{error.object[error.start]:02x}"
            continue
        if piece and not begun:
            begun, piece = True, piece.removeprefix("\ufeff")
        if piece:
            characters += len(piece)
            yield piece
    if wrong:
        raise NotText(f"text file {path} is not UTF-8: {wrong}; give plain text in UTF-8")
    if not size:
        raise NotText(f"text file {path} is empty; give a file with text in it")
    if not characters:
        raise NotText(f"text file {path} has nothing but a byte order mark; give one with text")


def _read(path: Path) -> Iterator[bytes]:
    with open_regular(path, "text file") as file:
        try:
            while data := file.read(PIECE):
                yield data
        except OSError as error:
            raise InputError(f"text file {path} cannot be read: {error.strerror}") from error


def in_pieces(text: str) -> Iterator[str]:
    """A text in memory, piece by piece: what is made of each takes memory too."""
    return (text[k : k + PIECE] for k in range(0, len(text), PIECE))


class Digest:
    """What is known of a text when its pieces have gone through `of`."""

    characters: int

    def __init__(self) -> None:
        self.characters = 0
        self._sha256 = hashlib.sha256()

    def of(self, pieces: Iterable[str]) -> Iterator[str]:
        """The same pieces."""
        for piece in pieces:
            self.characters += len(piece)
            self._sha256.update(piece.encode())
            yield piece

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8, as hexadecimal digits."""
        return self._sha256.hexdigest()


def gather(arrays: Iterable[Array], folder: str | os.PathLike[str] | None = None) -> Array:
    """Arrays (M,) of one dtype, one or more, as one array.

    Where it is large, it is read-only, and the memory of a file that has no name and goes when the
    array goes: nobody else can write to it, or cut it. `folder` says on which disk; None is where
    the system has temporary files. Raises InputError where there is no room.
    """
    arrays, held, size = iter(arrays), [], 0
    for array in arrays:
        held.append(array)
        size += array.nbytes
        if size > IN_MEMORY:
            break
    else:
        return np.concatenate(held)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for array in chain(held, arrays):
                file.write(array.data)
            file.flush()
            return np.memmap(file, held[0].dtype, "r").view(np.ndarray)
    except OSError as error:
        raise InputError(
            f"the ids of the text cannot be kept in a file in {folder or tempfile.gettempdir()}: "
            f"{error.strerror}; make room there"
        ) from error
