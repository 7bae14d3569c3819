"""Affine layers. N batch rows, T time steps, D input size, M output size."""

import numpy as np

from .._checks import as_floats
from .._ops import Ops
from .._types import Array, ArrayLike
from .base import Layer


class TimeAffine(Layer):
    """x W + b at every position.

    Parameters
    ----------
    W : array (D, M), float32 or float64; may be the transpose of an embedding's table, whose
        memory it then shares (`grads` does not: whoever ties the weights adds the two gradients,
        as the models of this package do)
    b : array (M,)
    ops : module with the arithmetic, keyword-only
    """

    def __init__(self, W: Array, b: Array, *, ops: Ops | None = None) -> None:
        super().__init__(ops, W=W, b=b)

    def _shapes(self) -> tuple[tuple[int | str, ...], ...]:
        columns = self.params[0].shape[-1] if self.params[0].ndim else "M"
        return ("D", columns), (columns,)

    def forward(self, x: ArrayLike) -> Array:
        """x (N, T, D) -> (N, T, M)."""
        given, x = x, self._checked_input(x)
        out = self.infer(x)
        # a copy, where x is the caller's own array: backward needs it unchanged
        self._keep(x.copy() if np.may_share_memory(x, given) else x)
        return out

    def infer(self, x: ArrayLike) -> Array:
        """What `forward` returns, with nothing kept for backward."""
        x = self._checked_input(x)
        W, b = self._checked_params()
        return self.ops.affine_forward(x.reshape(-1, len(W)), W, b).reshape(*x.shape[:2], -1)

    def backward(self, dout: ArrayLike) -> Array:
        """Gradient (N, T, M) of the output -> gradient of x (N, T, D); fills `grads`."""
        W, _ = self._checked_params()
        x, grads = self._require_cache(), self._writable_grads()
        D, M = W.shape
        dout = as_floats("dout", dout, self.dtype, (*x.shape[:2], M)).reshape(-1, M)
        return self.ops.affine_backward(dout, x.reshape(-1, D), W, *grads).reshape(x.shape)

    def _checked_input(self, x: ArrayLike) -> Array:
        W, _ = self._checked_params()
        return as_floats("x", x, self.dtype, ("N", "T", len(W)))
