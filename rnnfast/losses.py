"""Losses at the end of a network. Letters: N batch rows, T time steps, V vocabulary size."""

import numpy as np

from . import kernels
from ._checks import as_floats, as_ids, check_shape


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
