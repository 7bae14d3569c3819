"""Parts of a text, and its parallel lanes for truncated back-propagation through time (BPTT)."""

import numpy as np

from .._checks import as_count, as_ids
from .._types import Array, ArrayLike, Ids
from .vocabulary import check_length

VALID_PART = TEST_PART = 0.05  # of a text
PADDING = -1  # target of a position that counts for nothing


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


def unigram_entropy(ids: ArrayLike) -> float:
    """Entropy in nats of the frequencies of ids: the loss of the best model without context.

    Raises InputError for a text of one token.
    """
    ids = np.asarray(ids)
    check_length("ids", ids)
    counts = np.unique(ids, return_counts=True)[1]
    p = counts / counts.sum()
    return float((p * np.log(1 / p)).sum())
