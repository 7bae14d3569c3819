"""The history of a training: a line for every few of its steps."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Self, overload

import numpy as np

from .._types import Array
from ..errors import InputError

FIRST_ROWS = 16  # that there is memory for
WHOLE_MOST = 2**53  # up to which float64 has every whole number


@dataclass
class Record:
    """A line of the history: what was seen since the line before.

    Losses are means in nats per token. The last line of an epoch has a validation loss, with its
    perplexity (e to it) and bits per token (it over ln 2); the others have None there.
    """

    epoch: float
    step: int
    lr: float
    train_loss: float
    valid_loss: float | None
    valid_perplexity: float | None
    valid_bits_per_token: float | None
    tokens_per_second: float


NAMES = tuple(field.name for field in fields(Record))
STEP, PERPLEXITY = NAMES.index("step"), NAMES.index("valid_perplexity")
COUNTED = [NAMES.index(name) for name in ("epoch", "step", "lr", "tokens_per_second")]


class History(Sequence[Record]):
    """Records, in the order of their steps.

    They are kept as rows of numbers, which is how a checkpoint has them: it can be written again
    and again, however long they have become. A perplexity, which is inf where there is no number
    for it, is NaN where the record has None.
    """

    def __init__(self, rows: Array | None = None) -> None:
        """`rows` (M, 8), float64, those of another; they are copied."""
        self._rows = np.empty((FIRST_ROWS, len(NAMES))) if rows is None else np.array(rows)
        self._length = 0 if rows is None else len(rows)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        history = cls()
        for record in records:
            history.append(record)
        return history

    @property
    def rows(self) -> Array:
        """(M, 8), float64, a column for each field of `Record`; not a copy."""
        return self._rows[: self._length]

    def append(self, record: Record) -> None:
        if self._length == len(self._rows):
            larger = np.empty((max(FIRST_ROWS, 2 * self._length), len(NAMES)))
            larger[: self._length] = self._rows
            self._rows = larger
        self._rows[self._length] = [np.nan if x is None else x for x in astuple(record)]
        self._length += 1

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        rows = self.rows[index]
        return [_record(row) for row in rows] if isinstance(index, slice) else _record(rows)


def _record(row: Array) -> Record:
    epoch, step, lr, train_loss, *of_validation, tokens_per_second = row.tolist()
    validated = not np.isnan(row[PERPLEXITY])
    loss, perplexity, bits = of_validation if validated else (None, None, None)
    return Record(epoch, int(step), lr, train_loss, loss, perplexity, bits, tokens_per_second)


def taken_from(arrays: Mapping[str, Array]) -> tuple[History, dict[str, Array]]:
    """The history in the arrays of a checkpoint, where it is `history`, and the other arrays.

    Raises InputError where it is missing, or no `History` would have its rows.
    """
    others = dict(arrays)
    if "history" not in others:
        raise InputError("history: expected an array, got none")
    rows = others.pop("history")
    if rows.dtype != np.float64 or rows.ndim != 2 or rows.shape[1] != len(NAMES):
        raise InputError(
            f"history: expected float64 of shape (M, {len(NAMES)}), got {rows.dtype} of "
            f"shape {rows.shape}"
        )
    for k in COUNTED:
        column = rows[:, k]
        good = (column >= 0) & (column < (WHOLE_MOST if k == STEP else np.inf))
        if k == STEP:
            good &= column == np.floor(column)
        if not good.all():
            at = int(np.argmin(good))
            raise InputError(
                f"history[{at}].{NAMES[k]}: expected a {'whole ' if k == STEP else ''}number of "
                f"at least 0, got {column[at]}"
            )
    return History(rows), others


def as_csv(records: Iterable[Record], *, header: bool = False) -> bytes:
    """Lines of history.csv, with the names of the columns above them where it begins."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, NAMES)
    if header:
        writer.writeheader()
    writer.writerows(map(vars, records))
    return lines.getvalue().encode()
