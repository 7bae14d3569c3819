"""Texts: the one that every Python ships, and files."""

import importlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from ..errors import InputError
from .pieces import PIECE, OnRead, read_pieces


def builtin_corpus() -> str:
    """English text that every Python ships: the help topics of the standard library's pydoc.

    About 465,000 characters; what exactly depends on the version of Python. Raises InputError
    where a distribution has left the topics out.
    """
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise InputError(
            f"the built-in corpus is not part of this Python ({error}); give a text of your own"
        ) from error
    return "\n\n".join(topics[name].strip() for name in sorted(topics)) + "\n"


def load_text(path: str | PathLike[str]) -> str:
    """The text of a UTF-8 file; line ends become newlines, a byte order mark is dropped.

    Raises InputError for a file that is missing, a folder, unreadable, empty or not UTF-8 text.
    """
    return "".join(read_pieces(path))


class Text:
    """A text that can be read again and again: that of a file, or for None the built-in one.

    Of a file, only a piece at a time is in memory; all of it where it cannot be read twice.
    """

    name: str
    size: int  # bytes of the file, 0 where it is in memory

    def __init__(self, name: str, path: str | PathLike[str] | None) -> None:
        self.name, self.size = name, 0
        self._path, self._held = Path(path or ""), None
        if path is None:
            self._held = builtin_corpus()
        elif self._path.is_fifo() or self._path.is_char_device():  # of a shell, as `<(command)`
            self._held = load_text(path)
        elif self._path.is_file():
            self.size = self._path.stat().st_size

    def pieces(self, on_read: OnRead | None = None) -> Iterator[str]:
        """The text in pieces; see `read_pieces`."""
        if self._held is None:
            return read_pieces(self._path, on_read)
        held = self._held
        return (held[k : k + PIECE] for k in range(0, len(held), PIECE))
