"""Texts: the one that every Python ships, and files."""

import importlib
from collections.abc import Iterator
from contextlib import suppress
from os import PathLike
from pathlib import Path

from ..errors import InputError
from .pieces import OnRead, in_pieces, read_pieces


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

    Raises InputError for a file that is missing, unreadable, empty or not UTF-8 text, and for what
    is no regular file: a folder, a pipe, a device, a socket.
    """
    return "".join(read_pieces(path))


class Text:
    """A text that can be read again and again: that of a file, or `held`, which is in memory.

    `name` is the path of the file, or what to call the text that is held. Of a file, only a piece
    at a time is in memory.
    """

    name: str
    size: int  # bytes of the file, 0 where the text is in memory

    def __init__(self, name: str, held: str | None = None) -> None:
        self.name, self.size, self._held = name, 0, held
        if held is None:
            with suppress(OSError, ValueError):  # `pieces` says what is wrong
                self.size = Path(name).stat().st_size

    def pieces(self, on_read: OnRead | None = None) -> Iterator[str]:
        """The text in pieces; see `read_pieces`."""
        return read_pieces(self.name, on_read) if self._held is None else in_pieces(self._held)
