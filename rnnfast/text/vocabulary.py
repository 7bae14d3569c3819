"""Vocabularies: tokens and their ids."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import repeat
from os import PathLike
from typing import Self

import numpy as np

from .._checks import as_count, as_ids
from .._types import Array, Ids
from ..errors import InputError
from .pieces import gather, read_pieces

LEVELS = ("char", "word")
END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"
LONGEST_WORD = 1 << 20  # characters: longer ones are gathered from many pieces of a file


class UnknownToken(InputError):
    """A text has a token that a vocabulary has not."""


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

    tokens: list[str]
    level: str

    def __init__(self, tokens: Iterable[str], level: str) -> None:
        if level not in LEVELS:
            raise ValueError(f"level: expected 'char' or 'word', got {level!r}")
        self.tokens = list(tokens)
        self.level = level
        for token in self.tokens:
            if not isinstance(token, str):
                raise TypeError(f"tokens: expected texts, got {token!r}; decode bytes first")
        self._ids = {token: k for k, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            twice = next(token for token, n in Counter(self.tokens).items() if n > 1)
            raise ValueError(f"tokens: expected every token once, got {twice!r} more than once")

    @classmethod
    def from_text(
        cls, text: str, level: str = "char", *, max_size: int | None = None, min_count: int = 1
    ) -> Self:
        """The vocabulary of a text: characters sorted, words in the order of their first use.

        Of words, only those that occur `min_count` times are kept, and of these at most the
        `max_size` most frequent; where that leaves some out, `<unk>` stands for them, at the end
        unless the text has it. A text of one token has a vocabulary too; it is an error where
        something is to be learnt from it.
        """
        counts = Counter(text if level == "char" else _words(text))
        return cls.from_counts(counts, level, max_size=max_size, min_count=min_count)

    @classmethod
    def from_file(
        cls,
        path: str | PathLike[str],
        level: str = "char",
        *,
        max_size: int | None = None,
        min_count: int = 1,
    ) -> Self:
        """The vocabulary of a file's text, as `from_text` makes it; the text may be larger than
        memory.

        Raises what `load_text` raises.
        """
        counts = count_tokens(read_pieces(path), level)
        return cls.from_counts(counts, level, max_size=max_size, min_count=min_count)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        level: str = "char",
        *,
        max_size: int | None = None,
        min_count: int = 1,
    ) -> Self:
        """The vocabulary of a text, as `from_text` makes it, of how often it has each token.

        The order of words is the order of first use.
        """
        min_count = as_count("min_count", min_count)
        if max_size is not None:
            max_size = as_count("max_size", max_size, hint="None is any number of words")
        if level == "char":
            return cls(sorted(counts), level)
        # a prepared text, like Penn Treebank, has <unk> already
        frequent = [word for word, n in counts.items() if n >= min_count and word != UNKNOWN]
        unknown = len(frequent) < len(counts)
        if max_size is not None and len(frequent) + unknown > max_size:
            frequent = sorted(frequent, key=counts.__getitem__, reverse=True)[: max_size - 1]
            unknown = True
        kept = {*frequent, UNKNOWN}
        tokens = [word for word in counts if word in kept]
        return cls([*tokens, UNKNOWN] if unknown and UNKNOWN not in counts else tokens, level)

    @property
    def unit(self) -> str:
        """What to call a token in a sentence."""
        return {"char": "character", "word": "word"}[self.level]

    def __len__(self) -> int:
        return len(self.tokens)

    def id_of(self, token: str, default: int | None = None) -> int | None:
        """The id of a token, or `default` if it has none."""
        return self._ids.get(token, default)

    def encode(self, text: str) -> Ids:
        """Text -> ids (M,), int64.

        Raises TypeError for what is no text, InputError for a token that has no id.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: expected a str, got {type(text).__name__}; decode bytes first")
        return np.concatenate([*self.encode_pieces([text])]).astype(np.int64)

    def encode_file(
        self, path: str | PathLike[str], *, folder: str | PathLike[str] | None = None
    ) -> Array:
        """The text of a file -> ids (M,), of the smallest unsigned dtype that holds them all.

        Neither the text nor its ids need fit into memory: large ones are read-only, mapped from a
        file without a name on the disk of `folder`, or where the system has temporary files, which
        is gone with the array. Raises what `load_text` raises, and InputError for a token that has
        no id or where there is no room on the disk.
        """
        return gather(self.encode_pieces(read_pieces(path)), folder)

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[Array]:
        """The ids of a text in pieces, which may cut words, as arrays of one dtype.

        Raises UnknownToken for tokens that have no id, after the last piece.
        """
        dtype = np.min_scalar_type(max(len(self) - 1, 0))
        read, first, missing = 0, "", set[str]()
        for tokens, ids in self._numbered(pieces):
            if len(ids) and ids[where := int(ids.argmin())] < 0:
                first = first or f"{tokens[where]!r} ({self.unit} {read + where} of the text)"
                missing |= set(tokens) - self._ids.keys()
            read += len(tokens)
            if not first:
                yield ids.astype(dtype)
        if first:
            others = len(missing) - 1
            raise UnknownToken(
                f"{first}{f' and {others} others' if others else ''} not in the vocabulary of "
                f"{len(self)} {self.unit}s; remove them, or train on text that has them"
            )

    def _numbered(self, pieces: Iterable[str]) -> Iterator[tuple[Sequence[str], Array]]:
        """Tokens and their ids, -1 where there is none."""
        if self.level == "char":
            known = [(ord(token), k) for k, token in enumerate(self.tokens) if len(token) == 1]
            table = np.full(max(known, default=(0,))[0] + 2, -1, np.int32)
            for code, k in known:
                table[code] = k
            for piece in pieces:
                yield piece, table.take(_codes(piece), mode="clip")
        else:
            unknown = repeat(self._ids.get(UNKNOWN, -1))
            for words in _words_of(pieces):
                ids = map(self._ids.get, words, unknown)
                yield words, np.fromiter(ids, np.int64, len(words))

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; the inverse of `encode` but for spacing between words.

        Raises TypeError for ids that are not integers, ValueError for one outside 0..V-1, with its
        position.
        """
        ids = as_ids("ids", ids, len(self), ("M",)).tolist() if (ids := list(ids)) else []
        if self.level == "char":
            return "".join([self.tokens[k] for k in ids])
        return "".join(map(self.piece, ids, [None, *ids]))

    def piece(self, token_id: int, before: int | None) -> str:
        """What an id adds to a text whose last id is `before`, None where it has none.

        In the order of a text, these make what `decode` returns.
        """
        token = self.tokens[token_id]
        if self.level == "char":
            return token
        if token == END_OF_LINE:
            return "\n"
        begins_line = before is None or self.tokens[before] == END_OF_LINE
        return token if begins_line else f" {token}"


def count_tokens(pieces: Iterable[str], level: str) -> Mapping[str, int]:
    """How often a text in pieces has each token; words stand in the order of their first use."""
    if level == "char":
        counts = np.zeros(sys.maxunicode + 1, np.int64)
        for piece in pieces:
            found = np.bincount(_codes(piece))
            counts[: len(found)] += found
        return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}
    words = Counter[str]()
    for some in _words_of(pieces):
        words.update(some)
    return words


def check_length(name: str, tokens: Sized, unit: str = "token id") -> None:
    """Raise InputError for a text of fewer than two tokens, in which none follows another."""
    if len(tokens) < 2:
        raise InputError(
            f"{name}: expected at least 2 {unit}s, got {len(tokens)}; take a longer text"
        )


def _words(text: str) -> list[str]:
    return text.replace("\n", f" {END_OF_LINE} ").split()


def _words_of(pieces: Iterable[str]) -> Iterator[list[str]]:
    """The words of a text in pieces, none of them cut."""
    begun = ""  # what the next piece may carry on
    for piece in pieces:
        if len(begun) > LONGEST_WORD:
            raise InputError(
                f"the text has a word of more than {LONGEST_WORD:,} characters, which begins with "
                f"{begun[:20]!r}; take a text with blanks between its words, or characters"
            )
        text = begun + piece
        words = _words(text)
        begun = words.pop() if words and not text[-1].isspace() else ""
        yield words
    if begun:
        yield [begun]


def _codes(text: str) -> Array:
    """The numbers that characters have in Unicode."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
