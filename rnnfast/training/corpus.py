"""The text of a run: read, counted, encoded, and found again when the run is resumed."""

import math
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .._files import open_regular
from .._types import Array
from ..errors import InputError
from ..text.corpora import Text, builtin_corpus
from ..text.lanes import TEST_PART, VALID_PART, split_by_position
from ..text.pieces import Digest, NotText, gather
from ..text.vocabulary import UNKNOWN, UnknownToken, Vocabulary, count_tokens
from .fields import path as as_path
from .progress import Progress
from .settings import Settings

MAX_WORDS = 10_000


@dataclass
class Corpus:
    """Where a text came from, how long it is, and its ids (M,): all, and in three parts.

    They are of the smallest unsigned dtype that holds them; those of a large text are read-only,
    and in a file.
    """

    name: str
    characters: int
    ids: Array
    train: Array = field(init=False)
    valid: Array = field(init=False)
    test: Array = field(init=False)

    def __post_init__(self) -> None:
        self.train, self.valid, self.test = split_by_position(self.ids)


def lasting(path: str | os.PathLike[str]) -> Path:
    """The path of a text as a checkpoint has it: it is found from any folder later, and taken then.

    Raises InputError for one that would not be.
    """
    absolute = Path(path).absolute()
    if os.name == "posix":  # where // at the beginning is no other machine
        absolute = Path("/", str(absolute).lstrip("/"))
    try:
        as_path("text", str(absolute))
    except InputError as error:
        raise InputError(
            f"{error}, too long or with control characters; give the file another name"
        ) from None
    return absolute


def read_text(settings: Settings) -> Text:
    """The text that settings ask for."""
    if settings.text is not None:
        return Text(str(settings.text))
    return Text(f"pydoc_data.topics of Python {platform.python_version()}", builtin_corpus())


def vocabulary_of(text: Text, settings: Settings, verbose: bool) -> tuple[Vocabulary, str]:
    """The vocabulary of a text from which something can be learnt, and its checksum."""
    digest = Digest()
    counts = count_tokens(digest.of(_pieces(text, verbose)), settings.level)
    min_count = 1 if settings.level == "char" else 2
    vocabulary = Vocabulary.from_counts(
        counts, settings.level, max_size=MAX_WORDS, min_count=min_count
    )
    _require_enough(text.name, sum(counts.values()), vocabulary, settings)
    return vocabulary, digest.sha256


def text_of_checkpoint(settings: Settings, text_bytes: int | None, folder: Path) -> Text:
    """The text that the run in a folder was started with. Its path is in the checkpoint, which
    anybody may have written: it is followed to a regular file on this machine alone, of the size
    that the text had."""
    path = settings.text
    if path is None:
        return read_text(settings)
    # a system may tell another machine who its user is, before that one says what is there
    if str(path).replace("\\", "/").startswith("//"):
        raise InputError(
            f"{path}, which the run in {folder} was started with, is on another machine; "
            "name the text yourself (--text with --resume, or text=)"
        )
    if _has_another_size(Path(path), text_bytes):
        raise _other_text(str(path), folder)
    try:
        open_regular(path, "text file").close()
    except InputError as error:
        where = "say where it is (--text with --resume)"
        raise InputError(f"the text of the run in {folder}: {error}, or {where}") from None
    return read_text(settings)


def _has_another_size(path: Path, size: int | None) -> bool:
    """Whether a regular file has, before it is opened."""
    with suppress(OSError, ValueError):  # of which `open_regular` says more
        status = path.stat()
        return stat.S_ISREG(status.st_mode) and size not in (None, status.st_size)
    return False


def encoded(
    text: Text,
    vocabulary: Vocabulary,
    sha256: str,
    folder: Path,
    *,
    verbose: bool,
    is_new: bool = False,
) -> Corpus:
    """A text whose checksum and vocabulary are known from before, when it was read for this run if
    that `is_new`; no error shows what is in it."""
    digest = Digest()
    try:
        ids = gather(
            vocabulary.encode_pieces(digest.of(_pieces(text, verbose))), _on_disk_of(folder)
        )
        same = digest.sha256 == sha256
    except (UnknownToken, NotText):
        same = False
    if not same and is_new:
        raise InputError(f"{text.name} changes while it is read; give a copy of it")
    if not same:
        raise _other_text(text.name, folder)
    return Corpus(text.name, digest.characters, ids)


def _other_text(name: str, folder: Path) -> InputError:
    return InputError(
        f"{name} is not the text that the run in {folder} was started with; "
        "put that text back, say where it is (--text with --resume), or start a new run"
    )


def _pieces(text: Text, verbose: bool) -> Iterator[str]:
    """A text in pieces; if it is long, how far it was read is shown."""
    with Progress(text.size, verbose=verbose, read=Path(text.name).name) as progress:
        yield from text.pieces(progress.advance)


def _on_disk_of(folder: Path) -> Path | None:
    """A folder on the disk of one that may not be there yet: the system's own for temporary files,
    which None is, may be in memory. None where nothing can be written."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None


def _require_enough(name: str, length: int, vocabulary: Vocabulary, settings: Settings) -> None:
    """Raise InputError unless all parts of a text are long enough, with the length that is."""
    if set(vocabulary.tokens) <= {UNKNOWN}:
        raise InputError(
            f"{name} has no word that occurs twice, so there is nothing to learn; "
            "take a longer text, or --level char"
        )
    block = settings.batch * settings.time
    needed = max(2 * round(1 / TEST_PART), math.ceil((block + 1) / (1 - VALID_PART - TEST_PART)))
    needed += 1  # where a part begins is rounded
    if length < needed:
        raise InputError(
            f"{name} has {length:,} {vocabulary.unit}s, but {settings.batch} lanes of "
            f"{settings.time} steps need at least {needed:,}; take a longer text, or a smaller "
            "--batch or --time"
        )
    if len(vocabulary) == 1:
        raise InputError(
            f"{name} has one {vocabulary.unit} only, {vocabulary.tokens[0]!r}, again and again, "
            "so there is nothing to learn; take another text"
        )
