"""Vocabularies: tokens and their ids."""

from collections import Counter
from collections.abc import Iterable, Sized
from typing import Self

import numpy as np

from .._checks import as_count, as_ids
from .._types import Ids
from ..errors import InputError

LEVELS = ("char", "word")
END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"


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
        min_count = as_count("min_count", min_count)
        if max_size is not None:
            max_size = as_count("max_size", max_size, hint="None is any number of words")
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
    def unit(self) -> str:
        """What to call a token in a sentence."""
        return {"char": "character", "word": "word"}[self.level]

    def __len__(self) -> int:
        return len(self.tokens)

    def id_of(self, token: str, default: int | None = None) -> int | None:
        """The id of a token, or `default` if it has none."""
        return self._ids.get(token, default)

    def encode(self, text: str) -> Ids:
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


def check_length(name: str, tokens: Sized, unit: str = "token id") -> None:
    """Raise InputError for a text of fewer than two tokens, in which none follows another."""
    if len(tokens) < 2:
        raise InputError(
            f"{name}: expected at least 2 {unit}s, got {len(tokens)}; take a longer text"
        )


def _words(text: str) -> list[str]:
    return text.replace("\n", f" {END_OF_LINE} ").split()
