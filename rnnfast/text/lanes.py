"""Parts of a text, and its parallel lanes for truncated back-propagation through time (BPTT)."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from .._checks import as_array, as_count, as_ids, check_shape
from .._types import Array, ArrayLike, Ids
from .vocabulary import check_length

Block: TypeAlias = tuple[Ids, Ids]
"""Inputs and targets, both (N, T)."""

VALID_PART = TEST_PART = 0.05  # of a text
PADDING = -1  # target of a position that counts for nothing
COUNTED_AT_ONCE = 1 << 20  # ids


def split_by_position(
    ids: Array, valid: float = VALID_PART, test: float = TEST_PART
) -> tuple[Array, Array, Array]:
    """ids -> (train, validation, test): the beginning, what follows, the end.

    Of a short text, validation and test may be empty. Raises InputError for a text of one token.
    """
    check_length("ids", ids)
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise ValueError(
            f"valid, test: expected fractions of at least 0 with a sum below 1, got {valid}, {test}"
        )
    a, b = round(len(ids) * (1 - valid - test)), round(len(ids) * (1 - test))
    return ids[:a], ids[a:b], ids[b:]


def lanes(ids: ArrayLike, batch_size: int) -> tuple[Ids, Ids]:
    """Cut a text into `batch_size` parallel lanes: ids (M,) -> inputs, targets, both (N, L).

    Lane after lane is a stretch of the text, the target of a token is its successor, and every
    token but the first is a target once. The end of the last lane is filled with inputs 0 and
    targets `PADDING`, which losses ignore. Raises InputError for a text of one token.
    """
    batch_size = as_count("batch_size", batch_size)
    ids = as_ids("ids", ids, np.iinfo(np.int64).max, ("M",))
    check_length("ids", ids)
    length = -(-(len(ids) - 1) // batch_size)
    inputs = np.zeros(batch_size * length, np.int64)
    targets = np.full(batch_size * length, PADDING)
    inputs[: len(ids) - 1] = ids[:-1]
    targets[: len(ids) - 1] = ids[1:]
    return inputs.reshape(batch_size, length), targets.reshape(batch_size, length)


class Blocks:
    """The `lanes` of a text in blocks of `time_size` columns, the last one maybe shorter.

    `blocks[k]` is (inputs, targets) of block k, both (N, T), int64. It is made when it is asked
    for, and the ids are not copied: they may be of any integer dtype, and in a file that is larger
    than memory, as `numpy.memmap` has it. Raises what `lanes` raises.
    """

    ids: Array  # of the whole text
    tokens: int  # of which each is a target once

    def __init__(self, ids: ArrayLike, batch_size: int, time_size: int) -> None:
        batch_size, time_size = as_count("batch_size", batch_size), as_count("time_size", time_size)
        self.ids = _as_text(ids)
        self.tokens = len(self.ids) - 1
        self._length = -(-self.tokens // batch_size)
        self._begins = np.arange(batch_size)[:, None] * self._length  # of lanes
        self._columns = range(0, self._length, time_size)

    def __len__(self) -> int:
        return len(self._columns)

    def __getitem__(self, k: int) -> Block:
        column = self._columns[k]
        places = self._begins + np.arange(column, min(column + self._columns.step, self._length))
        filled = places >= self.tokens
        places[filled] = 0
        inputs, targets = (self.ids[p].astype(np.int64) for p in (places, places + 1))
        inputs[filled], targets[filled] = 0, PADDING
        return inputs, targets

    def __iter__(self) -> Iterator[Block]:
        return (self[k] for k in range(len(self)))


def unigram_entropy(ids: ArrayLike) -> float:
    """Entropy in nats of the frequencies of ids: the loss of the best model without context.

    Raises InputError for a text of one token.
    """
    ids = _as_text(ids)
    size = int(ids.max()) + 1
    if size > len(ids):  # few of many
        counts = np.unique(ids, return_counts=True)[1]
    else:
        counts = np.zeros(size, np.int64)
        for k in range(0, len(ids), COUNTED_AT_ONCE):
            part = ids[k : k + COUNTED_AT_ONCE].astype(np.int64)
            counts += np.bincount(part, minlength=size)
        counts = counts[counts > 0]
    p = counts / counts.sum()
    return float((p * np.log(1 / p)).sum())


def _as_text(ids: ArrayLike) -> Array:
    """Two ids or more, of an integer dtype, not below 0, as they are: no copy, which may be large.

    Raises as `as_ids` does, and InputError for a text of one token.
    """
    ids = as_array("ids", ids)
    check_length("ids", ids)
    check_shape("ids", ids, ("M",))
    most = np.iinfo(np.int64).max
    as_ids("ids", ids[:1], most, ("M",))  # the dtype
    if ids.min() < 0 or ids.max() >= most:
        as_ids("ids", ids, most, ("M",))  # which says where
    return ids
