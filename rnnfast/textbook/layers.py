"""Layers of the book without a time axis. N batch rows, D input size, M output size, V classes."""

from typing import TypeVar

import numpy as np

from .. import layers as compiled
from .._checks import as_fraction
from .._types import Array, ArrayLike
from ._over import Over, Plain
from .config import GPU
from .functions import TINY, cross_entropy_error, labels_of, sigmoid, softmax

__all__ = [
    "GPU",
    "Affine",
    "Dropout",
    "Embedding",
    "MatMul",
    "Sigmoid",
    "SigmoidWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "cross_entropy_error",
    "np",
    "softmax",
]

Kept = TypeVar("Kept")


class MatMul(Plain):
    """x W. W (D, M); attribute `x`, the last input."""

    x: Array | None = None

    def __init__(self, W: Array) -> None:
        super().__init__(W)

    def forward(self, x: ArrayLike) -> Array:
        """x (N, D) -> (N, M)."""
        self.x = np.asarray(x)
        out: Array = np.dot(self.x, self.params[0])
        return out

    def backward(self, dout: Array) -> Array:
        """Gradient (N, M) of the output -> that of x (N, D); fills `grads`."""
        self.grads[0][...] = np.dot(last(self.x).T, dout)
        dx: Array = np.dot(dout, self.params[0].T)
        return dx


class Affine(MatMul):
    """x W + b. W (D, M), b (M,); attribute `x`, the last input."""

    def __init__(self, W: Array, b: Array) -> None:
        Plain.__init__(self, W, b)

    def forward(self, x: ArrayLike) -> Array:
        """x (N, D) -> (N, M)."""
        out: Array = super().forward(x) + self.params[1]
        return out

    def backward(self, dout: Array) -> Array:
        """Gradient (N, M) of the output -> that of x (N, D); fills `grads`."""
        dx = super().backward(dout)
        self.grads[1][...] = np.sum(dout, axis=0)
        return dx


class Softmax(Plain):
    """Softmax of every row; attribute `out`, the last output."""

    out: Array | None = None

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: ArrayLike) -> Array:
        """Logits x (N, V) -> probabilities (N, V)."""
        self.out = softmax(x)
        return self.out

    def backward(self, dout: Array) -> Array:
        """p_v (dp_v - sum_w dp_w p_w): every probability depends on every logit of its row."""
        p = last(self.out)
        dx: Array = p * (dout - np.sum(dout * p, axis=1, keepdims=True))
        return dx


class SoftmaxWithLoss(Plain):
    """Softmax of every row and `cross_entropy_error`; attributes `y`, the probabilities, and `t`,
    the labels (N,)."""

    y: Array | None = None
    t: Array | None = None

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: ArrayLike, t: ArrayLike) -> float:
        """Logits x (N, V), targets t: labels (N,) or one-hot (N, V) -> float."""
        y = softmax(x)
        t = labels_of(t, y)
        loss = cross_entropy_error(y, t)
        self.y, self.t = y, t
        return loss

    def backward(self, dout: float = 1) -> Array:
        """Gradient of the logits (N, V): dout (y - one-hot t) / N."""
        dx, t = last(self.y).copy(), last(self.t)
        dx[np.arange(len(t)), t] -= 1
        dx *= dout / len(t)
        return dx


class Sigmoid(Plain):
    """1 / (1 + e^-x) of every number; attribute `out`, the last output."""

    out: Array | None = None

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: ArrayLike) -> Array:
        """x of any shape -> that shape."""
        self.out = sigmoid(x)
        return self.out

    def backward(self, dout: Array) -> Array:
        """Gradient of the output -> that of x: dout (1 - y) y."""
        y = last(self.out)
        dx: Array = dout * (1 - y) * y
        return dx


class SigmoidWithLoss(Plain):
    """Sigmoid and the mean of -log(p + 1e-7), p being y where t is 1 and 1 - y where it is 0;
    attributes `y`, `t` and `loss`."""

    y: Array | None = None
    t: Array | None = None
    loss: float | None = None

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: ArrayLike, t: ArrayLike) -> float:
        """Scores x (N,), targets t (N,), each 0 or 1 -> float."""
        y, t = sigmoid(x), np.asarray(t)
        if t.shape != y.shape:
            raise ValueError(f"t: expected the shape {y.shape} of the scores, got {t.shape}")
        if not ((t == 0) | (t == 1)).all():
            raise ValueError(f"t: expected targets 0 and 1, got {np.unique(t)!s:.60}")
        loss: float = -np.sum(np.log(np.where(t, y, 1 - y) + TINY)) / len(y)
        self.y, self.t, self.loss = y, t, loss
        return loss

    def backward(self, dout: float = 1) -> Array:
        """Gradient of the scores (N,): dout (y - t) / N."""
        y, t = last(self.y), last(self.t)
        dx: Array = (y - t.astype(y.dtype)) * (dout / len(t))
        return dx


class Dropout(Plain):
    """x times a mask of 0 and 1 in training, times 1 - dropout_ratio in evaluation.

    The mask is drawn from NumPy's global generator; attribute `mask`, what the last x met.
    """

    dropout_ratio: float
    mask: Array | float | None = None

    def __init__(self, dropout_ratio: float = 0.5) -> None:
        super().__init__()
        self.dropout_ratio = as_fraction("dropout_ratio", dropout_ratio)

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        """x of any shape -> that shape."""
        if train_flg:
            self.mask = np.random.rand(*x.shape) > self.dropout_ratio
        else:
            self.mask = 1.0 - self.dropout_ratio
        out: Array = x * self.mask
        return out

    def backward(self, dout: Array) -> Array:
        """Gradient of the output -> that of x."""
        dx: Array = dout * last(self.mask)
        return dx


class Embedding(Over):
    """Rows of the table W (V, D) by id; attribute `idx`, the last ids."""

    idx: Array | None = None

    def __init__(self, W: Array) -> None:
        super().__init__(compiled.TimeEmbedding, W)

    def forward(self, idx: ArrayLike) -> Array:
        """Ids of any shape (...) -> vectors (..., D).

        Raises TypeError for ids that are not integers, ValueError for one outside 0..V-1.
        """
        idx = np.asarray(idx)
        out: Array = self._take_weights().forward(idx.reshape(1, -1))
        self.idx = idx
        return out.reshape(*idx.shape, -1)

    def backward(self, dout: Array) -> None:
        """Gradient (..., D) of the vectors -> None: ids have none; fills `grads`."""
        own = self._take_weights()
        own.backward(np.reshape(dout, (1, last(self.idx).size, -1)))
        self._return_gradients()


def last(kept: Kept | None) -> Kept:
    """What forward kept; an error where there was none."""
    if kept is None:
        raise RuntimeError("backward: expected a forward call before it, got none; call forward")
    return kept
