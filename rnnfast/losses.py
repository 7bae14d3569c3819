"""Losses at the end of a network.

Letters: N batch rows, T time steps, V vocabulary size, M outputs of a regression.
"""

import numpy as np

from ._checks import as_floats, as_ids, check_shape
from ._ops import HasOps
from .layers import TimeAffine


class TimeSoftmaxWithLoss(HasOps):
    """Mean cross entropy of the softmax over all positions whose target is not ignored, in nats.

    Computed from the logits as log(sum e^x) - x_target, so that it stays finite where the
    probability of the target underflows. If every target is ignored, loss and gradient are 0.

    Attributes
    ----------
    ignore_label : int
        Target that marks a position to leave out; -1, and may be set.
    params, grads : empty lists
    """

    def __init__(self, *, ops=None):
        super().__init__(ops)
        self.params, self.grads = [], []
        self.ignore_label = -1
        self._cache = None

    def forward(self, xs, ts):
        """Logits xs (N, T, V), targets ts: ids (N, T), or one-hot (N, T, V) -> float.

        Raises TypeError for ids that are not integers, ValueError for shapes that do not fit or
        an id outside 0..V-1, with its position.
        """
        xs = _as_own_floats("xs", xs, ("N", "T", "V"))
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
        shape, probs, targets, count, ignore_label = _cache_of(self)
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

    def __init__(self, W, b, *, ops=None):
        super().__init__(W, b, ops=ops)
        self.ignore_label = -1
        self._loss_cache = self._loss_shape = None

    def logits(self, x):
        """x (N, T, D) -> x W + b, (N, T, V): what `TimeAffine.forward` returns."""
        return super().forward(x)

    def forward(self, xs, ts, *, need_gradient=True):
        """xs (N, T, D), targets ts: ids (N, T) -> mean cross entropy in nats, a float.

        Without `need_gradient` the two products of the gradient are left out, and backward cannot
        follow.
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
        self._checked_params()
        dx = self.ops.affine_loss_backward(self._loss_cache, float(dout), *self._writable_grads())
        return dx.reshape(self._loss_shape)


class TimeSoftmax:
    """Softmax at every position: p_v = e^x_v / sum e^x. NumPy alone.

    Attributes
    ----------
    params, grads : empty lists
    """

    def __init__(self):
        self.params, self.grads = [], []
        self._cache = None

    def forward(self, xs):
        """Logits xs (N, T, V) -> probabilities (N, T, V)."""
        xs = _as_own_floats("xs", xs, ("N", "T", "V"))
        # the largest logit is taken off, so that no exponential overflows
        ps = np.exp(xs - xs.max(axis=2, keepdims=True))
        ps /= ps.sum(axis=2, keepdims=True)
        self._cache = ps
        return ps.copy()

    def backward(self, dout):
        """Gradient (N, T, V) of the probabilities -> that of the logits (N, T, V).

        dx_v = p_v (dp_v - sum_w dp_w p_w): every probability depends on every logit.
        """
        ps = _cache_of(self)
        dps = as_floats("dout", dout, ps.dtype, ps.shape)
        return ps * (dps - (dps * ps).sum(axis=2, keepdims=True))


class TimePerplexityLoss:
    """Mean of 1 / (p + eps) over all positions, p being the probability of the target.

    This is the arithmetic mean of the inverse probabilities: 1 where the targets are certain, V
    where all tokens are as likely, and never below the usual perplexity, their geometric mean,
    which is reported beside it. With respect to the logits, its gradient is that of the cross
    entropy times about 1/p: unlikely targets dominate, and clipping helps.

    Parameters
    ----------
    eps : float
        Keeps the loss finite where p is 0.

    Attributes
    ----------
    perplexity : e^(mean of -log p) of the last forward (inf where a p is 0), or None
    params, grads : empty lists
    """

    def __init__(self, eps=1e-8):
        if not 0 <= eps < np.inf:
            raise ValueError(f"eps: expected a finite number of at least 0, got {eps!r}")
        self.eps = eps
        self.params, self.grads = [], []
        self.perplexity = None
        self._cache = None

    def forward(self, ps, ts):
        """Probabilities ps (N, T, V), target ids ts (N, T) or (N, T, 1) -> float.

        Raises TypeError for ids that are not integers, ValueError for shapes that do not fit or
        an id outside 0..V-1, with its position.
        """
        ps = _as_own_floats("ps", ps, ("N", "T", "V"))
        N, T, V = ps.shape
        ts = np.asarray(ts)
        ts = as_ids("ts", ts[..., 0] if ts.shape == (N, T, 1) else ts, V, (N, T))[..., None]
        # eps in double precision, in which even 1e-8 is more than the rounding of a p near 1
        p = np.take_along_axis(ps, ts, axis=2).astype(np.float64)
        with np.errstate(divide="ignore"):  # 1/0 and log 0 are as infinite as they should be
            self.perplexity = float(np.exp(-np.log(p).mean()))
            loss = float((1 / (p + self.eps)).mean())
        self._cache = ps.shape, ps.dtype, ts, p
        return loss

    def backward(self, dout=1):
        """Gradient of the probabilities (N, T, V): -dout / (N T (p + eps)^2) at the targets."""
        (N, T, V), dtype, ts, p = _cache_of(self)
        dps = np.zeros((N, T, V), dtype)
        np.put_along_axis(dps, ts, -float(dout) / (N * T * (p + self.eps) ** 2), axis=2)
        return dps


class TimeSquaredLoss:
    """Mean over all positions of half the squared error, summed over the outputs of a position.

    Attributes
    ----------
    params, grads : empty lists
    """

    def __init__(self):
        self.params, self.grads = [], []
        self._cache = None

    def forward(self, ys, ts):
        """Outputs ys and targets ts of one shape, (T,), (N, T) or (N, T, M) -> float."""
        shape = (("T",), ("N", "T"), ("N", "T", "M"))[min(max(np.ndim(ys), 1), 3) - 1]
        ys = _as_own_floats("ys", ys, shape)
        error = ys - as_floats("ts", ts, ys.dtype, ys.shape, "targets have the shape of outputs")
        positions = error.size // (error.shape[2] if error.ndim == 3 else 1)
        self._cache = error, positions
        return float(np.square(error, dtype=np.float64).sum() / (2 * positions))

    def backward(self, dout=1):
        """Gradient of the outputs, in their shape: dout (ys - ts) / positions."""
        error, positions = _cache_of(self)
        return error * (float(dout) / positions)


def _as_own_floats(name, array, shape):
    """`array` in float64 if it is in float64, else in float32."""
    array = np.asarray(array)
    # big-endian float64 is float64 too
    dtype = np.dtype(np.float64 if array.dtype.newbyteorder("=") == np.float64 else np.float32)
    return as_floats(name, array, dtype, shape)


def _cache_of(loss):
    if loss._cache is None:
        raise RuntimeError(
            f"{type(loss).__name__}.backward: expected a forward call before it, got none; "
            "call forward first"
        )
    return loss._cache
