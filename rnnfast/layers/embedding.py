"""Vectors of tokens. N batch rows, T time steps, V vocabulary size, D vector size."""

from collections.abc import Sequence

import numpy as np

from .._checks import as_floats, as_ids
from .._ops import Ops
from .._types import Array, ArrayLike, Ids, Sizes
from .base import Layer


class TimeEmbedding(Layer):
    """Rows of the table W by token id.

    Parameters
    ----------
    W : array (V, D), float32 or float64
    ops : module with the arithmetic, keyword-only

    Raises
    ------
    TypeError
        For ids that are not integers.
    ValueError
        For an id outside 0..V-1, with its position.
    """

    # the gradient that a sparse backward has filled, and the rows of it; None: any may be
    _filled: tuple[Array, Ids] | None = None

    def __init__(self, W: Array, *, ops: Ops | None = None) -> None:
        super().__init__(ops, W=W)

    def _shapes(self) -> tuple[Sizes, ...]:
        return (("V", "D"),)

    def forward(self, xs: ArrayLike) -> Array:
        """Ids xs (N, T) -> vectors (N, T, D)."""
        (W,) = self._checked_params()
        ids = as_ids("xs", xs, len(W), ("N", "T"))
        vectors: Array = self.ops.embedding_forward(W, ids)
        self._keep(ids)
        return vectors

    def forward_distinct(self, xs: ArrayLike) -> tuple[Array, Ids]:
        """Ids xs (N, T) -> vectors (U, D) of the tokens that occur, index (N, T) into them.

        They are the input of a recurrent layer's `forward(vectors, index=index)`. Backward then
        takes the gradient (U, D) that this layer returns.
        """
        tokens, index = self._distinct(xs)
        vectors: Array = self.ops.embedding_forward(self._checked_params()[0], tokens)
        self._keep(tokens)
        return vectors, index

    def infer(self, xs: ArrayLike) -> Array:
        """What `forward` returns, with nothing kept for backward."""
        (W,) = self._checked_params()
        vectors: Array = self.ops.embedding_forward(W, as_ids("xs", xs, len(W), ("N", "T")))
        return vectors

    def infer_distinct(self, xs: ArrayLike) -> tuple[Array, Ids]:
        """What `forward_distinct` returns, with nothing kept for backward."""
        tokens, index = self._distinct(xs)
        return self.ops.embedding_forward(self._checked_params()[0], tokens), index

    def backward(self, dout: ArrayLike, *, sparse: bool = False) -> None:
        """Gradient of the vectors, (N, T, D) or (U, D) -> None: ids have none; fills `grads`.

        With `sparse`, which makes a large table as fast as a small one, rows of the gradient are
        left as they are which neither this forward had nor the one before the last sparse backward:
        they are zero, unless somebody has written there since. `grad_rows` says which rows are not.
        A gradient whose rows do not follow each other in memory is filled as without.
        """
        (W,) = self._checked_params()
        ids = self._require_cache()
        dout = as_floats("dout", dout, self.dtype, (*ids.shape, W.shape[1]))
        (dW,) = self._writable_grads()
        before, self._filled = self._filled, None  # unknown, until all is done
        if not sparse or not dW.flags.c_contiguous:
            self.ops.embedding_backward(dout, ids, dW)
            return
        rows = np.unique(ids)
        rows.flags.writeable = False
        filled = None if before is None or before[0] is not dW else before[1]
        self.ops.embedding_backward(dout, ids, dW, filled)
        self._filled = dW, rows

    def grad_rows(self) -> list[Ids | None]:
        """For the array of `grads`, the numbers of its rows that may differ from zero, increasing;
        None after a backward that was not sparse."""
        if self._filled is None or self._filled[0] is not self.grads[0]:
            return [None]
        return [self._filled[1]]

    def set_grad_rows(self, rows: Sequence[Ids | None]) -> None:
        """Let `grad_rows` return these: somebody has written into the gradient, and they are the
        rows of it that may differ from zero, as the next sparse backward must know."""
        (own,) = rows
        self._filled = None if own is None else (self.grads[0], own)

    def _distinct(self, xs: ArrayLike) -> tuple[Ids, Ids]:
        (W,) = self._checked_params()
        tokens, index = self.ops.distinct(as_ids("xs", xs, len(W), ("N", "T")), len(W))
        return tokens, index
