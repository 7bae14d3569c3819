"""Losses at the end of a network.

Letters: N batch rows, T time steps, V vocabulary size, M outputs of a regression, K labels.
"""

from typing import Any

import numpy as np

from ._checks import (
    as_array,
    as_floats,
    as_ids,
    as_own_floats,
    as_sides,
    check_shape,
    is_number,
)
from ._ops import Ops
from ._types import Array, ArrayLike, Precision
from .layers import Layer
from .layers.affine import Affine

__all__ = [
    "TimeAffineWithLoss",
    "TimePerplexityLoss",
    "TimeSigmoidWithLoss",
    "TimeSoftmax",
    "TimeSoftmaxWithLoss",
    "TimeSquaredLoss",
]


class _IgnoresLabel:
    """A loss with an `ignore_label`."""

    @property
    def ignore_label(self) -> int:
        """Target that marks a position to leave out; may be set."""
        return self._ignore_label

    @ignore_label.setter
    def ignore_label(self, label: int) -> None:
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
            raise TypeError(f"ignore_label: expected a whole number, got {label!r}")
        if not -(2**63) <= label < 2**63:
            raise ValueError(f"ignore_label: expected a number of 64 bits, got {label}")
        self._ignore_label = int(label)


class TimeSoftmaxWithLoss(_IgnoresLabel, Layer):
    """Mean cross entropy of the softmax over all positions whose target is not ignored, in nats.

    Computed from the logits as log(sum e^x) - x_target, so that it stays finite where the
    probability of the target underflows. If every target is ignored, loss and gradient are 0.

    Parameters
    ----------
    ignore_label : int, keyword-only
        Target that marks a position to leave out; also an attribute, which may be set.
    ops : module with the arithmetic, keyword-only

    Attributes
    ----------
    params, grads : empty lists
    """

    def __init__(self, *, ignore_label: int = -1, ops: Ops | None = None) -> None:
        super().__init__(ops)
        self.ignore_label = ignore_label

    def config(self) -> dict[str, Any]:
        """Keyword arguments, as JSON has them, that make the layer again."""
        return {"ignore_label": self.ignore_label}

    def forward(self, xs: ArrayLike, ts: ArrayLike) -> float:
        """Logits xs (N, T, V), targets ts: ids (N, T), or one-hot (N, T, V) -> float.

        Raises TypeError for ids that are not integers, ValueError for shapes that do not fit or
        an id outside 0..V-1, with its position.
        """
        xs = as_own_floats("xs", xs, ("N", "T", "V"))
        N, T, V = xs.shape
        ts = np.asarray(ts)
        if ts.ndim == 3:
            check_shape("ts", ts, xs.shape, "one-hot targets have the shape of the logits")
            ts = ts.argmax(axis=2)
        targets = as_ids("ts", ts, V, (N, T), self.ignore_label).reshape(-1)
        logits = np.ascontiguousarray(xs.reshape(N * T, V))
        total: float
        count: int
        total, count, probs = self.ops.softmax_loss_forward(logits, targets, self.ignore_label)
        self._keep((xs.shape, probs, targets, count, self.ignore_label))
        return total / max(count, 1)

    def backward(self, dout: float = 1) -> Array:
        """Gradient of the logits (N, T, V), times `dout`, the gradient that arrives at the loss."""
        shape, probs, targets, count, ignore_label = self._require_cache()
        scale = float(dout) / max(count, 1)
        dxs: Array = self.ops.softmax_loss_backward(probs, targets, ignore_label, scale)
        return dxs.reshape(shape)


class TimeAffineWithLoss(_IgnoresLabel, Affine):
    """`TimeAffine` and `TimeSoftmaxWithLoss` in one, which never hold all logits in memory.

    The rows go through affine layer, softmax and cross entropy in blocks, forward and backward
    at once; see `rnnfast.kernels.affine_loss`.

    Parameters
    ----------
    W : array (D, V), float32 or float64; may be the transpose of an embedding's table
    b : array (V,)
    ignore_label : int, keyword-only
        Target that marks a position to leave out; also an attribute, which may be set.
    precision : "bfloat16", or the dtype of the weights, or None, keyword-only
        "bfloat16" rounds the operands of the three products to bf16, as in `TimeAffine`: x and W;
        the gradient of the logits, before each row is divided by the sum of its exponentials and
        by the number of rows that count, and W; x, divided by these, and that gradient. The softmax
        and the loss are of the logits in float32.
    ops : module with the arithmetic, keyword-only

    Attributes
    ----------
    precision : "bfloat16", "float32" or "float64"

    Notes
    -----
    All gradients are made by `forward`, from the weights that it saw: weights changed before
    `backward` have no influence on them. (The other layers' `backward` takes the weights that it
    finds.) `backward` refuses weights that were replaced by other arrays.
    """

    def __init__(
        self,
        W: Array,
        b: Array,
        *,
        ignore_label: int = -1,
        precision: Precision | None = None,
        ops: Ops | None = None,
    ) -> None:
        super().__init__(W, b, precision=precision, ops=ops)
        self.ignore_label = ignore_label

    def config(self) -> dict[str, Any]:
        """Keyword arguments, as JSON has them, that make the layer again from its weights."""
        return super().config() | {"ignore_label": self.ignore_label}

    def logits(self, x: ArrayLike) -> Array:
        """x (N, T, D) -> x W + b, (N, T, V); the same as `infer`: nothing is kept."""
        return self.infer(x)

    def forward(self, xs: ArrayLike, ts: ArrayLike, *, need_gradient: bool = True) -> float:
        """xs (N, T, D), targets ts: ids (N, T) -> mean cross entropy in nats, a float.

        Without `need_gradient` the two products of the gradient are left out, and backward cannot
        follow.
        """
        W, b = self._checked_params()
        xs = as_floats("xs", xs, self.dtype, ("N", "T", len(W)))
        targets = as_ids("ts", ts, len(b), xs.shape[:2], self.ignore_label).reshape(-1)
        total: float
        count: int
        total, count, cache = self.ops.affine_loss_forward(
            xs.reshape(-1, len(W)), W, b, targets, self.ignore_label,
            need_gradient=need_gradient, cache=self._take_memory(), **self._products,
        )  # fmt: skip
        self._kept = None  # an error that comes now lets backward be refused
        if need_gradient:
            self._keep((cache, xs.shape))
        self._memory = cache
        return total / max(count, 1)

    def backward(self, dout: float = 1) -> Array:
        """Gradient of xs (N, T, D), times `dout`, that of the loss; fills `grads`.

        Raises RuntimeError without a forward before it, or with another array in `params` since.
        """
        self._checked_params()
        cache, shape = self._require_cache()
        dx: Array = self.ops.affine_loss_backward(cache, float(dout), *self._writable_grads())
        return dx.reshape(shape)


class TimeSigmoidWithLoss(_IgnoresLabel, Layer):
    """Mean binary cross entropy of the sigmoid over all numbers whose target is not ignored, in
    nats.

    Computed from the logits as log(1 + e^x) where the target is 0 and log(1 + e^-x) where it is 1,
    so that it stays finite, and exact, where a probability rounds to 0 or 1. If every target is
    ignored, loss and gradient are 0.

    Parameters
    ----------
    ignore_label : int, keyword-only
        Target that marks a number to leave out; also an attribute, which may be set.
    ops : module with the arithmetic, keyword-only

    Attributes
    ----------
    params, grads : empty lists

    Examples
    --------
    >>> import rnnfast
    >>> loss_layer = rnnfast.TimeSigmoidWithLoss()
    >>> round(loss_layer.forward([[0.0, -1000.0, 7.0]], [[1, 0, -1]]), 4)
    0.3466
    >>> loss_layer.backward()
    array([[-0.25,  0.  ,  0.  ]])
    """

    def __init__(self, *, ignore_label: int = -1, ops: Ops | None = None) -> None:
        super().__init__(ops)
        self.ignore_label = ignore_label

    def config(self) -> dict[str, Any]:
        """Keyword arguments, as JSON has them, that make the layer again."""
        return {"ignore_label": self.ignore_label}

    def forward(self, xs: ArrayLike, ts: ArrayLike) -> float:
        """Logits xs (N, T) or (N, T, K), targets ts, 0 or 1, of the same shape -> float.

        Targets may have any real dtype. Raises TypeError where they have none, ValueError for
        shapes that do not fit or another target, with its position.
        """
        xs = as_array("xs", xs)
        xs = as_own_floats("xs", xs, ("N", "T", "K")[: 3 if xs.ndim == 3 else 2])
        hint = "targets have the shape of the logits"
        sides = as_sides("ts", ts, xs.shape, self.ignore_label, hint).reshape(-1)
        logits = np.ascontiguousarray(xs).reshape(-1)
        total: float
        total, dlogits = self.ops.sigmoid_loss_forward(logits, sides)
        count = max(int(np.count_nonzero(sides)), 1)
        self._keep((dlogits.reshape(xs.shape), count))
        return total / count

    def backward(self, dout: float = 1) -> Array:
        """Gradient of the logits, in their shape: dout (sigmoid(x) - t) / how many count."""
        dlogits: Array
        count: int
        dlogits, count = self._require_cache()
        return dlogits * (float(dout) / count)


class TimeSoftmax(Layer):
    """Softmax at every position: p_v = e^x_v / sum e^x. NumPy alone.

    Attributes
    ----------
    params, grads : empty lists
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, xs: ArrayLike) -> Array:
        """Logits xs (N, T, V) -> probabilities (N, T, V)."""
        ps = self.infer(xs)
        self._keep(ps)
        return ps.copy()

    def infer(self, xs: ArrayLike) -> Array:
        """What `forward` returns, with nothing kept for backward."""
        xs = as_own_floats("xs", xs, ("N", "T", "V"))
        # the largest logit is taken off, so that no exponential overflows
        ps: Array = np.exp(xs - xs.max(axis=2, keepdims=True))
        ps /= ps.sum(axis=2, keepdims=True)
        return ps

    def backward(self, dout: ArrayLike) -> Array:
        """Gradient (N, T, V) of the probabilities -> that of the logits (N, T, V).

        dx_v = p_v (dp_v - sum_w dp_w p_w): every probability depends on every logit.
        """
        ps: Array = self._require_cache()
        dps = as_floats("dout", dout, ps.dtype, ps.shape)
        dxs: Array = ps * (dps - (dps * ps).sum(axis=2, keepdims=True))
        return dxs


class TimePerplexityLoss(Layer):
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

    perplexity: float | None

    def __init__(self, eps: float = 1e-8) -> None:
        if not (is_number(eps) and 0 <= eps < np.inf):
            raise ValueError(f"eps: expected a finite number of at least 0, got {eps!r}")
        super().__init__()
        self.eps = eps
        self.perplexity = None

    def config(self) -> dict[str, Any]:
        """Keyword arguments, as JSON has them, that make the layer again."""
        return {"eps": float(self.eps)}

    def forward(self, ps: ArrayLike, ts: ArrayLike) -> float:
        """Probabilities ps (N, T, V), target ids ts (N, T) or (N, T, 1) -> float.

        Raises TypeError for ids that are not integers, ValueError for shapes that do not fit or
        an id outside 0..V-1, with its position.
        """
        ps = as_own_floats("ps", ps, ("N", "T", "V"))
        N, T, V = ps.shape
        ts = np.asarray(ts)
        ts = as_ids("ts", ts[..., 0] if ts.shape == (N, T, 1) else ts, V, (N, T))[..., None]
        # eps in double precision, in which even 1e-8 is more than the rounding of a p near 1
        p = np.take_along_axis(ps, ts, axis=2).astype(np.float64)
        # 1/0 and log 0 are as infinite as they should be; what is below 0 has no logarithm
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            self.perplexity = float(np.exp(-np.log(p).mean()))
            loss = float((1 / (p + self.eps)).mean())
        self._keep((ps.shape, ps.dtype, ts, p))
        return loss

    def backward(self, dout: float = 1) -> Array:
        """Gradient of the probabilities (N, T, V): -dout / (N T (p + eps)^2) at the targets."""
        (N, T, V), dtype, ts, p = self._require_cache()
        dps = np.zeros((N, T, V), dtype)
        with np.errstate(divide="ignore", over="ignore"):  # as infinite as the loss
            np.put_along_axis(dps, ts, -float(dout) / (N * T * (p + self.eps) ** 2), axis=2)
        return dps


class TimeSquaredLoss(Layer):
    """Mean over all positions of half the squared error, summed over the outputs of a position.

    Attributes
    ----------
    params, grads : empty lists
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, ys: ArrayLike, ts: ArrayLike) -> float:
        """Outputs ys and targets ts of one shape, (T,), (N, T) or (N, T, M) -> float."""
        shape = (("T",), ("N", "T"), ("N", "T", "M"))[min(max(np.ndim(ys), 1), 3) - 1]
        ys = as_own_floats("ys", ys, shape)
        error = ys - as_floats("ts", ts, ys.dtype, ys.shape, "targets have the shape of outputs")
        positions = error.size // (error.shape[2] if error.ndim == 3 else 1)
        self._keep((error, positions))
        return float(np.square(error, dtype=np.float64).sum() / (2 * positions))

    def backward(self, dout: float = 1) -> Array:
        """Gradient of the outputs, in their shape: dout (ys - ts) / positions."""
        error: Array
        positions: int
        error, positions = self._require_cache()
        return error * (float(dout) / positions)
