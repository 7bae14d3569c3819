"""The embedding: rows of a table by token id, and the scatter-add that is its gradient."""

import numpy as np

from libc.stdint cimport int64_t

from ._scalar cimport real


def embedding_forward(W, ids):
    """Rows of a table. See `rnnfast.reference.ops.embedding_forward` for the contract."""
    out = np.empty((ids.size, W.shape[1]), W.dtype)
    _gather(W, ids.reshape(-1), out)
    return out.reshape(*ids.shape, W.shape[1])


def embedding_backward(dout, ids, dW):
    """Scatter-add. See `rnnfast.reference.ops.embedding_backward` for the contract."""
    dW[...] = 0
    _scatter_add(dout.reshape(-1, dW.shape[1]), ids.reshape(-1), dW)


def _gather(
    const real[:, :] W,           # IN (V, D)
    const int64_t[::1] ids,       # IN (M)
    real[:, ::1] out,             # OUT (M, D)
):
    """out_m = W[id_m]"""
    cdef Py_ssize_t m, j
    with nogil:
        for m in range(out.shape[0]):
            for j in range(out.shape[1]):
                out[m, j] = W[ids[m], j]


def _scatter_add(
    const real[:, :] dout,        # IN (M, D)
    const int64_t[::1] ids,       # IN (M)
    real[:, :] dW,                # INOUT (V, D)
):
    """dW[id_m] += dout_m; an id that stands more than once collects all its rows."""
    cdef Py_ssize_t m, j
    with nogil:
        for m in range(dout.shape[0]):
            for j in range(dout.shape[1]):
                dW[ids[m], j] += dout[m, j]
