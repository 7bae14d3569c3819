"""Parts of a text, and its parallel lanes for truncated back-propagation through time (BPTT)."""

import numpy as np

from .._checks import as_count

VALID_PART = TEST_PART = 0.05  # of a text
PADDING = -1  # target of a position that counts for nothing


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
