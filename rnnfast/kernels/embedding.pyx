"""The embedding: rows of a table by token id, and the scatter-add that is its gradient."""

import numpy as np

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from .engine cimport Matrix, View, below, check_shapes, moved, real, simd_of, view_of

cdef enum:
    MANY_ROWS = 1024              # of which sums are made exactly


def embedding_forward(W, ids):
    """Rows of a table. See `rnnfast.reference.ops.embedding_forward` for the contract."""
    out = np.empty((*ids.shape, W.shape[1]), W.dtype)
    cdef View table = view_of(W), rows = view_of(out, True)
    cdef const int64_t[::1] of_rows = ids.reshape(-1)
    cdef Py_ssize_t m, j, D = table.columns, number = table.simd.number
    cdef Matrix row
    with nogil:
        for m in range(of_rows.shape[0]):
            row = below(table.simd, table.matrix, of_rows[m])
            if row.column == 1:
                memcpy(moved(rows.simd, rows.matrix.at, m * D), row.at, D * number)
            else:
                for j in range(D):
                    memcpy(moved(rows.simd, rows.matrix.at, m * D + j),
                           moved(table.simd, row.at, j * row.column), number)
    return out


def embedding_backward(dout, ids, dW, filled=None):
    """Scatter-add. See `rnnfast.reference.ops.embedding_backward` for the contract."""
    check_shapes(dout.shape[ids.ndim] == dW.shape[1] and _within(ids.reshape(-1), len(dW))
                 and (filled is None or _within(filled, len(dW))))
    # sums alone, in one thread: denormal numbers take no longer there, so that `run` is not needed
    dout, ids = dout.reshape(-1, dW.shape[1]), ids.reshape(-1)
    if ids.size > MANY_ROWS:
        tokens, index = distinct(ids, len(dW))
        sums, rest = np.zeros((2, len(tokens), dW.shape[1]), dW.dtype)
        _scatter_add_exactly(np.ascontiguousarray(dout), index, sums, rest)
        dout, ids = sums + rest, tokens
    _scatter_add(dout, ids, filled, dW)


def distinct(ids, V):
    """Tokens that occur. See `rnnfast.reference.ops.distinct` for the contract."""
    tokens, index = np.empty(min(V, ids.size), np.int64), np.empty(ids.shape, np.int64)
    count = _number(ids.reshape(-1), np.full(V, -1, np.int64), tokens, index.reshape(-1))
    return tokens[:count], index


cdef bint _within(const int64_t[::1] ids, Py_ssize_t V) except -1:
    """Whether they are rows of an array that has V of them now, whatever it had at the forward."""
    cdef Py_ssize_t m
    for m in range(ids.shape[0]):
        if not 0 <= ids[m] < V:
            return False
    return True


def _scatter_add(
    const real[:, :] dout,        # IN (M, D)
    const int64_t[::1] ids,       # IN (M)
    const int64_t[::1] filled,    # IN: rows of dW that may differ from zero; None: all
    real[:, :] dW,                # OUT (V, D)
):
    """dW = 0, then dW[id_m] += dout_m; an id that stands more than once collects all its rows."""
    cdef Py_ssize_t m, j, v, D = dout.shape[1]
    cdef bint contiguous = dout.strides[1] == dW.strides[1] == sizeof(real)
    cdef bint some = filled is not None
    with nogil:
        for m in range(filled.shape[0] if some else dW.shape[0]):
            v = filled[m] if some else m
            if contiguous and D:
                memset(&dW[v, 0], 0, D * sizeof(real))
                continue
            for j in range(D):
                dW[v, j] = 0
        for m in range(dout.shape[0]):
            if contiguous:
                simd_of(&dout[0, 0]).add(D, &dout[m, 0], &dW[ids[m], 0])
            else:
                for j in range(D):
                    dW[ids[m], j] += dout[m, j]


def _scatter_add_exactly(
    const real[:, ::1] dout,      # IN (M, D)
    const int64_t[::1] index,     # IN (M): rows of sums
    real[:, ::1] sums,            # INOUT (U, D)
    real[:, ::1] rest,            # INOUT (U, D): what rounding takes from sums
):
    """The same for so many rows that rounding errors would grow with them."""
    cdef Py_ssize_t m
    with nogil:
        for m in range(dout.shape[0]):
            simd_of(&dout[0, 0]).add_exactly(dout.shape[1], &dout[m, 0], &sums[index[m], 0],
                                             &rest[index[m], 0])


def _number(
    const int64_t[::1] ids,       # IN (M)
    int64_t[::1] number,          # INOUT (V): -1 in all places
    int64_t[::1] tokens,          # OUT: the ids that occur
    int64_t[::1] index,           # OUT (M): where in tokens each id stands
):
    """Number the ids in the order in which they occur first; returns how many there are."""
    cdef Py_ssize_t m, count = 0
    cdef int64_t v
    with nogil:
        for m in range(ids.shape[0]):
            v = ids[m]
            if number[v] < 0:
                number[v] = count
                tokens[count] = v
                count += 1
            index[m] = number[v]
    return count
