"""Affine layers. N batch rows, T time steps, D input size, M output size."""

import numpy as np

from .. import kernels
from .._checks import as_floats
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

    def __init__(self, W, b, *, ops=kernels):
        super().__init__(ops, W=W, b=b)

    def _shapes(self):
        columns = self.params[0].shape[-1] if self.params[0].ndim else "M"
        return ("D", columns), (columns,)

    def forward(self, x):
        """x (N, T, D) -> (N, T, M)."""
        W, b = self._checked_params()
        given, x = x, as_floats("x", x, self.dtype, ("N", "T", len(W)))
        # a copy, where x is the caller's own array: backward needs it unchanged
        self._cache = x.copy() if np.may_share_memory(x, given) else x
        return self.ops.affine_forward(x.reshape(-1, len(W)), W, b).reshape(*x.shape[:2], -1)

    def infer(self, x):
        """What `forward` returns, with nothing kept for backward."""
        W, b = self._checked_params()
        x = as_floats("x", x, self.dtype, ("N", "T", len(W)))
        return self.ops.affine_forward(x.reshape(-1, len(W)), W, b).reshape(*x.shape[:2], -1)

    def backward(self, dout):
        """Gradient (N, T, M) of the output -> gradient of x (N, T, D); fills `grads`."""
        x = self._require_cache()
        W, _ = self._checked_params()
        D, M = W.shape
        dout = as_floats("dout", dout, self.dtype, (*x.shape[:2], M)).reshape(-1, M)
        return self.ops.affine_backward(dout, x.reshape(-1, D), W, *self.grads).reshape(x.shape)
