"""Losses at the end of a network. Letters: N batch rows, T time steps, V vocabulary size."""

import numpy as np

from . import kernels
from ._checks import as_floats, as_ids, check_shape
from .layers import TimeAffine


class TimeSoftmaxWithLoss:
    """Mean cross entropy of the softmax over all positions whose target is not ignored, in nats.

    Computed from the logits as log(sum e^x) - x_target, so that it stays finite where the
    probability of the target underflows. If every target is ignored, loss and gradient are 0.

    Attributes
    ----------
    ignore_label : int
        Target that marks a position to leave out; -1, and may be set.
    params, grads : empty lists
    """

    def __init__(self, *, ops=kernels):
        self.ops = ops
        self.params, self.grads = [], []
        self.ignore_label = -1
        self._cache = None

    def forward(self, xs, ts):
        """Logits xs (N, T, V), targets ts: ids (N, T), or one-hot (N, T, V) -> float.

        Raises TypeError for ids that are not integers, ValueError for shapes that do not fit or
        an id outside 0..V-1, with its position.
        """
        xs = np.asarray(xs)
        dtype = xs.dtype if xs.dtype == np.float64 else np.dtype(np.float32)
        xs = as_floats("xs", xs, dtype, ("N", "T", "V"))
        N, T, V = xs.shape
        ts = np.asarray(ts)
        if ts.ndim == 3:
            check_shape("ts", ts, xs.shape, "one-hot targets have the shape of the logits")
            ts = ts.argmax(axis=2)
        targets = as_ids("ts", ts, V, (N, T), self.ignore_label).reshape(-1)
        logits = np.ascontiguousarray(xs.reshape(N * T, V))
        total, count, probs = self.ops.softmax_loss_forward(logits, targets, self.ignore_label)
        self._cache = (xs.shape, probs, targets, count, self.ignore_label)
        return total / max(count, 1)

    def backward(self, dout=1):
        """Gradient of the logits (N, T, V), times `dout`, the gradient that arrives at the loss."""
        if self._cache is None:
            raise RuntimeError(
                "TimeSoftmaxWithLoss.backward: expected a forward call before it, got none; "
                "call forward first"
            )
        shape, probs, targets, count, ignore_label = self._cache
        scale = float(dout) / max(count, 1)
        return self.ops.softmax_loss_backward(probs, targets, ignore_label, scale).reshape(shape)


class TimeAffineWithLoss(TimeAffine):
    """`TimeAffine` and `TimeSoftmaxWithLoss` in one, which never hold all logits in memory.

    The rows go through affine layer, softmax and cross entropy in blocks, forward and backward
    at once; see `rnnfast.kernels.affine`.

    Parameters
    ----------
    W : array (D, V), float32 or float64; may be the transpose of an embedding's table
    b : array (V,)
    ops : module with the arithmetic, keyword-only

    Attributes
    ----------
    ignore_label : int
        Target that marks a position to leave out; -1, and may be set.
    """

    def __init__(self, W, b, *, ops=kernels):
        super().__init__(W, b, ops=ops)
        self.ignore_label = -1
        self._loss_cache = self._loss_shape = None

    def logits(self, x):
        """x (N, T, D) -> x W + b, (N, T, V): what `TimeAffine.forward` returns."""
        return super().forward(x)

    def forward(self, xs, ts, *, need_gradient=True):
        """xs (N, T, D), targets ts: ids (N, T) -> mean cross entropy in nats, a float.

        Without `need_gradient` this takes a third of the time, and backward cannot follow.
        """
        W, b = self._checked_params()
        xs = as_floats("xs", xs, self.dtype, ("N", "T", len(W)))
        targets = as_ids("ts", ts, len(b), xs.shape[:2], self.ignore_label).reshape(-1)
        total, count, self._loss_cache = self.ops.affine_loss_forward(
            xs.reshape(-1, len(W)), W, b, targets, self.ignore_label,
            need_gradient=need_gradient, cache=self._loss_cache,
        )  # fmt: skip
        self._loss_shape = xs.shape if need_gradient else None
        return total / max(count, 1)

    def backward(self, dout=1):
        """Gradient of xs (N, T, D), times `dout`, that of the loss; fills `grads`."""
        if self._loss_shape is None:
            raise RuntimeError(
                "TimeAffineWithLoss.backward: expected a forward call before it, got none with "
                "need_gradient; call forward first"
            )
        dx = self.ops.affine_loss_backward(self._loss_cache, float(dout), *self.grads)
        return dx.reshape(self._loss_shape)
