"""Texts, vocabularies, and batches for truncated back-propagation through time (BPTT)."""

import hashlib
import importlib
import re
from collections import Counter
from pathlib import Path

import numpy as np

from ._checks import as_count
from .errors import InputError

LEVELS = ("char", "word")
END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"
VALID_PART = TEST_PART = 0.05  # of a text
PADDING = -1  # target of a position that counts for nothing


def builtin_corpus():
    """English text that every Python ships: the help topics of the standard library's pydoc.

    About 465,000 characters; what exactly depends on the version of Python. Raises InputError
    where a distribution has left the topics out.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise InputError(
            f"the built-in corpus is not part of this Python ({error}); give a text of your own"
        ) from error
    return "\n\n".join(topics[name].strip() for name in sorted(topics)) + "\n"


def load_text(path):
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


def checksum(text):
    """SHA-256 of a text in UTF-8, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


class Vocabulary:
    """Tokens and their ids, either way.

    Parameters
    ----------
    tokens : list of str
        The id of a token is its position.
    level : "char" or "word"
        What a token is: a character, or what stands between white space, where the end of a line
        is the token `<eos>`. A token `<unk>`, where the list has it, stands for every other word.
    """

    def __init__(self, tokens, level):
        if level not in LEVELS:
            raise ValueError(f"level: expected 'char' or 'word', got {level!r}")
        self.tokens = list(tokens)
        self.level = level
        self._ids = {token: k for k, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            twice = next(token for token, n in Counter(self.tokens).items() if n > 1)
            raise ValueError(f"tokens: expected every token once, got {twice!r} more than once")

    @classmethod
    def from_text(cls, text, level="char", *, max_size=None, min_count=1):
        """The vocabulary of a text: characters sorted, words in the order of their first use.

        Of words, only those that occur `min_count` times are kept, and of these at most the
        `max_size` most frequent; where that leaves some out, `<unk>` stands for them, at the end
        unless the text has it.
        """
        if level == "char":
            return cls(sorted(set(text)), level)
        counts = Counter(_words(text))
        words = counts.keys() - {UNKNOWN}  # a prepared text, like Penn Treebank, has <unk> already
        frequent = [word for word, n in counts.most_common() if word in words and n >= min_count]
        unknown = UNKNOWN in counts or len(frequent) < len(words)
        if max_size is not None and len(frequent) + unknown > max_size:
            frequent = frequent[: max_size - 1]
            unknown = True
        kept = {*frequent, UNKNOWN}
        tokens = [word for word in counts if word in kept]
        return cls([*tokens, UNKNOWN] if unknown and UNKNOWN not in counts else tokens, level)

    @property
    def unit(self):
        """What to call a token in a sentence."""
        return {"char": "character", "word": "word"}[self.level]

    def __len__(self):
        return len(self.tokens)

    def id_of(self, token, default=None):
        """The id of a token, or `default` if it has none."""
        return self._ids.get(token, default)

    def encode(self, text):
        """Text -> ids (M,), int64. Raises InputError for a token that has no id."""
        tokens = text if self.level == "char" else _words(text)
        unknown = self.id_of(UNKNOWN) if self.level == "word" else None
        ids = [self._ids.get(token, unknown) for token in tokens]
        if unknown is None and None in ids:
            where = ids.index(None)
            others = len(set(tokens) - self._ids.keys()) - 1
            raise InputError(
                f"{tokens[where]!r} ({self.unit} {where} of the text)"
                f"{f' and {others} others' if others else ''} not in the vocabulary of "
                f"{len(self)} {self.unit}s; remove them, or train on text that has them"
            )
        return np.array(ids, np.int64)

    def decode(self, ids):
        """Ids -> text; the inverse of `encode` but for spacing between words."""
        tokens = [self.tokens[k] for k in ids]
        if self.level == "char":
            return "".join(tokens)
        lines = " ".join("\n" if token == END_OF_LINE else token for token in tokens)
        return re.sub(" ?\n ?", "\n", lines)


def _words(text):
    return text.replace("\n", f" {END_OF_LINE} ").split()


def split_by_position(ids, valid=VALID_PART, test=TEST_PART):
    """ids -> (train, validation, test): the beginning, what follows, the end."""
    if valid < 0 or test < 0 or valid + test >= 1:
        raise ValueError(
            f"valid, test: expected fractions of at least 0 with a sum below 1, got {valid}, {test}"
        )
    a, b = round(len(ids) * (1 - valid - test)), round(len(ids) * (1 - test))
    return ids[:a], ids[a:b], ids[b:]


def lanes(ids, batch_size):
    """Cut a text into `batch_size` parallel lanes: ids (M,) -> inputs, targets, both (N, L).

    Lane after lane is a stretch of the text, the target of a token is its successor, and every
    token but the first is a target once. The end of the last lane is filled with inputs 0 and
    targets `PADDING`, which losses ignore.
    """
    batch_size = as_count("batch_size", batch_size)
    ids = np.asarray(ids)
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(
            f"ids: expected at least 2 token ids in one dimension, got shape {ids.shape}"
        )
    length = -(-(len(ids) - 1) // batch_size)
    inputs = np.zeros(batch_size * length, ids.dtype)
    targets = np.full(batch_size * length, PADDING, ids.dtype)
    inputs[: len(ids) - 1] = ids[:-1]
    targets[: len(ids) - 1] = ids[1:]
    return inputs.reshape(batch_size, length), targets.reshape(batch_size, length)


def unigram_entropy(ids):
    """Entropy in nats of the frequencies of ids: the loss of the best model without context."""
    counts = np.unique(ids, return_counts=True)[1]
    p = counts / counts.sum()
    return float((p * np.log(1 / p)).sum())
