"""Vectors of tokens. N batch rows, T time steps, V vocabulary size, D vector size."""

import numpy as np

from .. import kernels
from .._checks import as_floats, as_ids
from .base import Layer


class TimeEmbedding(Layer):
    """Rows of the table W by token id.

    Parameters
    ----------
    W : array (V, D), float32 or float64
    keep_zeros : bool, keyword-only
        Promises that nobody but this layer writes into its gradient other than to scale it, so
        that backward need not set all of it to zero but only the rows that it wrote last.
    ops : module with the arithmetic, keyword-only

    Raises
    ------
    TypeError
        For ids that are not integers.
    ValueError
        For an id outside 0..V-1, with its position.
    """

    def __init__(self, W, *, keep_zeros=False, ops=kernels):
        super().__init__(ops, W=W)
        self._keep_zeros = keep_zeros
        self._touched = np.zeros(0, np.int64)

    def _shapes(self):
        return (("V", "D"),)

    def forward(self, xs):
        """Ids xs (N, T) -> vectors (N, T, D)."""
        (W,) = self._checked_params()
        self._cache = as_ids("xs", xs, len(W), ("N", "T"))
        return self.ops.embedding_forward(W, self._cache)

    def forward_distinct(self, xs):
        """Ids xs (N, T) -> vectors (U, D) of the tokens that occur, index (N, T) into them.

        They are the input of a recurrent layer's `forward(vectors, index=index)`. Backward then
        takes the gradient (U, D) that this layer returns.
        """
        (W,) = self._checked_params()
        self._cache, index = self.ops.distinct(as_ids("xs", xs, len(W), ("N", "T")), len(W))
        return self.ops.embedding_forward(W, self._cache), index

    def infer(self, xs):
        """What `forward` returns, with nothing kept for backward."""
        (W,) = self._checked_params()
        return self.ops.embedding_forward(W, as_ids("xs", xs, len(W), ("N", "T")))

    def infer_distinct(self, xs):
        """What `forward_distinct` returns, with nothing kept for backward."""
        (W,) = self._checked_params()
        tokens, index = self.ops.distinct(as_ids("xs", xs, len(W), ("N", "T")), len(W))
        return self.ops.embedding_forward(W, tokens), index

    def backward(self, dout):
        """Gradient of the vectors, (N, T, D) or (U, D) -> None: ids have none; fills `grads`."""
        ids = self._require_cache()
        (W,) = self._checked_params()
        dout = as_floats("dout", dout, self.dtype, (*ids.shape, W.shape[1]))
        touched = self._touched if self._keep_zeros else None
        self.ops.embedding_backward(dout, ids, self.grads[0], touched=touched)
        self._touched = ids.reshape(-1)
