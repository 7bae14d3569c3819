"""Steps of the optimizers, and what clipping needs, of lists of arrays of any shape.

A step takes the parameters, their gradients and, for each, a tuple of the arrays that are kept for
it; all but the gradients are changed in place. `rows` is None, or has for each parameter None or
the numbers of its rows (along the first axis) that are meant, increasing: nothing else is read or
written. `decay` multiplies matrices, which have two axes or more, before the step.

All return whether they have taken the arrays, and the sum of squares None where it has not. Those
in NumPy take all that there are; the compiled ones none where one is of another dtype than float32
and float64, or the arrays of one parameter differ in dtype or in the order of their numbers, or
have gaps.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from .._types import Array, Ids

Rows = Sequence[Ids | None] | None
State = Sequence[tuple[Array, ...]]


def sgd_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    state: State,  # ()
    rows: Rows,
    decay: float,
    lr: float,
) -> bool:
    """W -= lr dW"""

    def step(W: Array, dW: Array) -> None:
        W -= lr * dW

    return _step(step, params, grads, state, rows, decay)


def momentum_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    state: State,  # (v,)
    rows: Rows,
    decay: float,
    lr: float,
    momentum: float,
) -> bool:
    """v = momentum v - lr dW;  W += v"""

    def step(W: Array, dW: Array, v: Array) -> None:
        v *= momentum
        v -= lr * dW
        W += v

    return _step(step, params, grads, state, rows, decay)


def nesterov_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    state: State,  # (v,)
    rows: Rows,
    decay: float,
    lr: float,
    momentum: float,
) -> bool:
    """v = momentum v - lr dW;  W += momentum^2 v - (1 + momentum) lr dW"""

    def step(W: Array, dW: Array, v: Array) -> None:
        v *= momentum
        v -= lr * dW
        W += momentum * momentum * v - (1 + momentum) * lr * dW

    return _step(step, params, grads, state, rows, decay)


def adagrad_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    state: State,  # (h,)
    rows: Rows,
    decay: float,
    lr: float,
) -> bool:
    """h += dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""

    def step(W: Array, dW: Array, h: Array) -> None:
        h += dW * dW
        W -= lr * dW / (np.sqrt(h) + 1e-7)

    return _step(step, params, grads, state, rows, decay)


def rmsprop_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    state: State,  # (h,)
    rows: Rows,
    decay: float,
    lr: float,
    decay_rate: float,
) -> bool:
    """h = decay_rate h + (1 - decay_rate) dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""

    def step(W: Array, dW: Array, h: Array) -> None:
        h *= decay_rate
        h += (1 - decay_rate) * dW * dW
        W -= lr * dW / (np.sqrt(h) + 1e-7)

    return _step(step, params, grads, state, rows, decay)


def adam_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    state: State,  # (m, v)
    rows: Rows,
    decay: float,
    lr: float,
    beta1: float,
    beta2: float,
) -> bool:
    """m += (1 - beta1) (dW - m);  v += (1 - beta2) (dW^2 - v);  W -= lr m / (sqrt(v) + 1e-7)"""

    def step(W: Array, dW: Array, m: Array, v: Array) -> None:
        m += (1 - beta1) * (dW - m)
        v += (1 - beta2) * (dW * dW - v)
        W -= lr * m / (np.sqrt(v) + 1e-7)

    return _step(step, params, grads, state, rows, decay)


def scale_arrays(arrays: Sequence[Array], rows: Rows, factor: float) -> bool:
    """x *= factor"""
    for x, own in zip(arrays, _each(rows), strict=False):
        x[own] *= factor
    return True


def clip_arrays(arrays: Sequence[Array], rows: Rows, limit: float) -> bool:
    """x = min(max(x, -limit), limit); NaN stays NaN."""
    with np.errstate(over="ignore"):  # a limit beyond the dtype is none
        for x, own in zip(arrays, _each(rows), strict=False):
            part = x[own]
            x[own] = np.clip(part, -limit, limit, out=part)
    return True


def sum_of_squares(arrays: Sequence[Array], rows: Rows) -> float | None:
    """The sum of all squares, in float64; rows of zeros change no bit of it."""
    total = 0.0
    with np.errstate(over="ignore"):
        for x, own in zip(arrays, _each(rows), strict=False):
            squares = np.square(x[own], dtype=np.float64)
            sums = squares.sum(axis=tuple(range(1, x.ndim))) if x.ndim > 1 else squares.sum()
            total = sum(np.atleast_1d(sums).tolist(), total)
    return total


def _step(
    step: Callable[..., None],
    params: Sequence[Array],
    grads: Sequence[Array],
    state: State,
    rows: Rows,
    decay: float,
) -> bool:
    """A step for each of the parameters."""
    for W, dW, slots, own in zip(params, grads, state, _each(rows), strict=False):
        changed = W, *slots
        parts = [array[own] for array in changed]  # views, or copies of rows
        if W.ndim > 1 and decay != 1:
            parts[0] *= decay
        step(parts[0], dW[own], *parts[1:])
        if own is not ...:
            for array, part in zip(changed, parts, strict=True):
                array[own] = part
    return True


def _each(rows: Rows) -> Iterable[Any]:
    """For each array an index of what is meant."""
    return repeat(...) if rows is None else (... if own is None else own for own in rows)
