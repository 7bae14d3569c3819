"""Functions of arrays. N batch rows, V classes."""

import numpy as np

from .._checks import as_ids
from .._types import Array, ArrayLike, Ids
from .config import GPU

__all__ = ["GPU", "cross_entropy_error", "np", "relu", "sigmoid", "softmax"]

TINY = 1e-7
"""What the book adds to a probability before it takes the logarithm."""


def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + e^-x), of numbers or arrays of any shape."""
    with np.errstate(over="ignore"):  # 1 / inf is the 0 that it should be
        y: Array = 1 / (1 + np.exp(np.negative(x)))
    return y


def relu(x: ArrayLike) -> Array:
    """max(0, x), of numbers or arrays of any shape."""
    y: Array = np.maximum(0, x)
    return y


def softmax(x: ArrayLike) -> Array:
    """e^x_v / sum e^x along the last axis."""
    x = np.asarray(x)
    y: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y


def cross_entropy_error(y: ArrayLike, t: ArrayLike) -> float:
    """Mean of -log(p + 1e-7) over the rows, p being the probability of the target.

    Probabilities y (N, V), targets t: labels (N,) or one-hot (N, V); or those of one row without N.

    Raises TypeError for labels that are not integers, ValueError for one outside 0..V-1.
    """
    y, t = np.asarray(y), np.asarray(t)
    if y.ndim == 1:
        y, t = y.reshape(1, -1), t.reshape(1, -1)
    loss: float = -np.sum(np.log(y[np.arange(len(y)), labels_of(t, y)] + TINY)) / len(y)
    return loss


def labels_of(t: ArrayLike, y: Array) -> Ids:
    """Labels (N,) from labels, or from one-hot rows like those of y (N, V)."""
    t = np.asarray(t)
    if t.ndim == y.ndim and t.size == y.size:
        labels: Ids = t.reshape(y.shape).argmax(axis=1)
        return labels
    return as_ids("t", t.reshape(-1) if t.size == len(y) else t, y.shape[1], (len(y),))
