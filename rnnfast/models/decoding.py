"""Sequences that a decoder writes, many at once: the likeliest token each time, or beam search.

Letters: N sequences, B beams of each, R rows (N, or N*B with the beams of a sequence next to each
other), S states, H hidden size, V vocabulary size, T tokens.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .._types import Array, Ids
from ..errors import InputError

Step: TypeAlias = Callable[[Ids, Array], tuple[Array, Array]]
"""Tokens (R,) and states (S, R, H) before them -> logits (R, V) of the next, states after them."""


def greedy(step: Step, states: Array, start_id: int, length: int, stop_id: int | None) -> Ids:
    """Ids (N, T) that follow `start_id`, the likeliest each time; `stop_id` follows itself."""
    N = states.shape[1]
    ids = np.empty((N, length), np.int64)
    given, stopped = np.full(N, start_id), np.zeros(N, bool)
    for t in range(length):
        logits, states = step(given, states)
        given = logits.argmax(axis=1)
        if stop_id is not None:
            given[stopped] = stop_id
            stopped = given == stop_id
            if stopped.all():
                ids[:, t:] = stop_id
                break
        ids[:, t] = given
    return ids


def beam_search(
    step: Step,
    states: Array,
    start_id: int,
    length: int,
    stop_id: int | None,
    beams: int,
    length_penalty: float,
) -> tuple[Ids, Array]:
    """Ids (N, T) that follow `start_id`, the best that the search found, and their scores (N,).

    Of all sequences that are one token longer than the B best of before, the B best are kept. One
    that has stopped competes with the others by its score: its log probability in nats over its
    number of tokens, that stops it included, to the power of `length_penalty`.
    """
    N, B = states.shape[1], beams
    rows = np.arange(N)[:, None]
    states = states.repeat(B, axis=1)
    given = np.full(N * B, start_id)
    # one of the beams, which are all the same at first
    total = np.where(np.arange(B) == 0, 0.0, -np.inf) + np.zeros((N, 1))
    count, running = np.zeros((N, B)), np.ones((N, B), bool)
    ids, scores = np.empty((N, B, length), np.int64), total
    for t in range(length):
        logits, states = step(given, states)
        logs = log_softmax(logits).reshape(N, B, -1)
        if stop_id is not None:
            logs[~running] = -np.inf
            logs[~running, stop_id] = 0
        count = count + running
        totals = total[:, :, None] + logs
        ranks = (totals / (count**length_penalty)[:, :, None]).reshape(N, -1)
        best = _best(ranks, B)
        parents, tokens = np.divmod(best, logs.shape[2])
        scores, total = ranks[rows, best], totals.reshape(N, -1)[rows, best]
        count, running = count[rows, parents], running[rows, parents]
        ids = ids[rows, parents]
        ids[:, :, t] = tokens
        if stop_id is not None:
            running &= tokens != stop_id
            if not running.any():
                ids[:, :, t:] = stop_id
                break
        states = states[:, (rows * B + parents).reshape(-1)]
        given = tokens.reshape(-1)
    return ids[:, 0].copy(), scores[:, 0].copy()


def log_softmax(logits: Array) -> Array:
    """Logits (..., V) -> logarithms of probabilities, float64."""
    logs = logits.astype(np.float64)
    logs -= logs.max(axis=-1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=-1, keepdims=True))
    return logs


def require_numbers(sound: Any) -> None:
    """Raise InputError unless the logits of a model were sound."""
    if not sound:
        raise InputError(
            "model: expected logits that are finite numbers, got NaN or infinity; its weights are "
            "not finite, or far too large: load them again, or train with a smaller learning rate"
        )


def _best(ranks: Array, count: int) -> Ids:
    """Places (N, count) of the highest numbers of each row, the highest first."""
    places = np.argpartition(-ranks, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(ranks, places, axis=1), axis=1, kind="stable")
    found: Ids = np.take_along_axis(places, order, axis=1)
    return found
