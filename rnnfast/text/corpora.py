"""Texts: the one that every Python ships, and files."""

import hashlib
import importlib
from os import PathLike
from pathlib import Path

from ..errors import InputError


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
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"text file {path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(f"text file {path} cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(f"text file {path} is empty; give a file with text in it")
    if (zero := data.find(b"\0")) >= 0:
        raise InputError(
            f"text file {path} is binary: byte {zero} is zero; give plain text in UTF-8"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"text file {path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; "
            "give plain text in UTF-8"
        ) from error
    if not text:
        raise InputError(f"text file {path} has nothing but a byte order mark; give one with text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def checksum(text: str) -> str:
    """SHA-256 of a text in UTF-8, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
