"""Binary cross entropy of the sigmoid, from the logits."""

import numpy as np

from cython.parallel cimport prange
from libc.stdint cimport int8_t

from .engine cimport View, moved, threads_for, view_of

cdef enum:
    COST = 60                     # a logit costs as much as so many flops
    CHUNK = 4096                  # logits whose losses a thread adds up


def sigmoid_loss_forward(logits, sides):
    """Sum of losses. See `rnnfast.reference.ops.sigmoid_loss_forward` for the contract."""
    dlogits = np.empty_like(logits)
    cdef View x = view_of(logits), dx = view_of(dlogits, True)
    cdef const int8_t[::1] side = sides
    cdef Py_ssize_t M = x.columns, chunks = (M + CHUNK - 1) // CHUNK, k
    cdef int threads = threads_for(COST * <double> M)
    losses = np.empty(chunks)
    cdef double[::1] loss = losses
    for k in prange(chunks, nogil=True, num_threads=threads, schedule="static"):
        loss[k] = x.simd.sigmoid_loss(
            min(CHUNK, M - k * CHUNK), moved(x.simd, x.matrix.at, k * CHUNK),
            &side[k * CHUNK], moved(x.simd, dx.matrix.at, k * CHUNK))
    return float(losses.sum()), dlogits
