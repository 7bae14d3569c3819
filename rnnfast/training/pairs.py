"""Training on pairs of sequences: shuffled batches of questions and their answers.

Letters: M pairs, N batch rows, S steps of a question, T of an answer.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._checks import as_above_zero, as_count, as_generator, as_real
from .._types import Array, ArrayLike, Ids, Seed
from ..models import Seq2seq
from .steps import take_step


def train_pairs(
    model: Seq2seq,
    optimizer: Any,
    xs: ArrayLike,
    ts: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    batch_size: int = 128,
    epochs: int = 10,
    max_grad: float | None = None,
    schedule: Callable[[float], float] | None = None,
    rng: Seed = None,
    on_step: Callable[[int, float], object] | None = None,
    on_epoch: Callable[[int, float], object] | None = None,
) -> list[float]:
    """Train a model on pairs, in an order that is drawn anew for every epoch.

    Parameters
    ----------
    model, optimizer : as in `rnnfast.models` and `rnnfast.training`
    xs, ts : ids (M, S) and (M, T+1), as `Seq2seq.forward` takes them
    lengths : integers (M,), keyword-only (like all that follow), or None
        Of the rows of xs.
    batch_size : int
        N; the last batch of an epoch has what is left.
    epochs : int
    max_grad : float or None
        Norm at which the gradient is clipped.
    schedule : what the learning rate is multiplied by, from the part of the training that is done
        Called with a number from 0 up to, but not, 1 before every step. Afterwards the optimizer
        has its own rate again.
    rng : numpy.random.Generator or RandomState, int, or None for a fresh generator
        Where the orders are drawn from.
    on_step : called with (rows, loss) after every step
    on_epoch : called with (epoch, mean loss) after every epoch

    Returns
    -------
    list of float
        Mean loss of the pairs in nats, by epoch.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.
    TrainingDiverged
        Where a loss or its gradient is not finite.
    """
    batch_size, epochs = as_count("batch_size", batch_size), as_count("epochs", epochs)
    if max_grad is not None:
        max_grad = as_above_zero("max_grad", max_grad)
    numbers, pairs = as_generator(rng), _checked_pairs(model, xs, ts, lengths)
    count, lr = len(pairs["xs"]), optimizer.lr
    steps, done, losses = epochs * -(-count // batch_size), 0, []
    try:
        for epoch in range(1, epochs + 1):
            total = 0.0
            for batch in _batches(pairs, batch_size, numbers.permutation(count)):
                if schedule is not None:
                    optimizer.lr = lr * _checked_factor(schedule(done / steps))
                rows = len(batch["xs"])
                loss = take_step(model, optimizer, **batch, max_grad=max_grad)
                done, total = done + 1, total + loss * rows
                if on_step:
                    on_step(rows, loss)
            losses.append(total / count)
            if on_epoch:
                on_epoch(epoch, losses[-1])
    finally:
        optimizer.lr = lr
    return losses


def right_answers(
    model: Seq2seq,
    xs: ArrayLike,
    ts: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    stop_id: int | None = None,
    batch_size: int = 1024,
) -> Array:
    """Which of the questions xs (M, S) a model answers as in ts (M, T+1), token for token: bools.

    The answer is what `generate` makes of the likeliest token each time, after the start token,
    the first of every row of ts. Targets that the loss leaves out count as right. The mean is the
    accuracy.

    Raises TypeError and ValueError for arguments that do not fit.
    """
    pairs = _checked_pairs(model, xs, ts, lengths)
    batch_size = as_count("batch_size", batch_size)
    starts = np.unique(pairs["ts"][:, 0])
    if len(starts) > 1:
        raise ValueError(
            f"ts: expected one start token in all rows, got {starts[0]} and {starts[1]}; "
            "ask for the rows of each on their own"
        )
    right = []
    for batch in _batches(pairs, batch_size, np.arange(len(pairs["xs"]))):
        targets = batch.pop("ts")[:, 1:]
        ids = model.generate(**batch, start_id=starts[0], length=targets.shape[1], stop_id=stop_id)
        right.append(((ids == targets) | (targets == model.affine.ignore_label)).all(axis=1))
    return np.concatenate(right)


def _checked_pairs(
    model: Seq2seq, xs: ArrayLike, ts: ArrayLike, lengths: ArrayLike | None
) -> dict[str, Any]:
    """The arrays by the names of arguments: what is wrong is found before the first batch."""
    if not isinstance(model, Seq2seq):
        raise TypeError(
            f"model: expected a Seq2seq, or one of its kind, got {type(model).__name__}; others "
            "are trained by a Trainer, or in a loop of your own"
        )
    questions, steps = model._checked_questions(xs, lengths)
    pairs = {"xs": questions, "ts": model._checked_answers(ts, len(questions))}
    return pairs if steps is None else pairs | {"lengths": steps}


def _checked_factor(factor: Any) -> float:
    """What a schedule has returned."""
    if not 0 <= as_real(factor) < math.inf:
        raise ValueError(
            f"schedule: expected it to return a finite number of at least 0, got {factor!r}"
        )
    return float(factor)


def _batches(pairs: dict[str, Any], size: int, order: Ids) -> Iterator[dict[str, Any]]:
    """The pairs in this order, so many at a time."""
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        yield {name: array[rows] for name, array in pairs.items()}
