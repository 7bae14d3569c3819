"""Binary cross entropy of the sigmoid, from the logits."""

import numpy as np

from libc.stdint cimport int8_t

from .engine cimport Simd, View, moved, part, run, threads_for, view_of

cdef enum:
    COST = 60                     # a logit costs as much as so many flops
    CHUNK = 4096                  # logits whose losses a thread adds up


ctypedef struct Logits:
    const Simd* simd
    Py_ssize_t M, chunks
    const void* x                 # (M)
    const int8_t* sides           # (M)
    void* dx                      # (M)
    double* losses                # (chunks)


def sigmoid_loss_forward(logits, sides):
    """Sum of losses. See `rnnfast.reference.ops.sigmoid_loss_forward` for the contract."""
    dlogits = np.empty_like(logits)
    cdef View x = view_of(logits), dx = view_of(dlogits, True)
    cdef const int8_t[::1] side = sides
    cdef Py_ssize_t M = x.columns, chunks = (M + CHUNK - 1) // CHUNK
    losses = np.empty(chunks)
    cdef double[::1] loss = losses
    cdef Logits s = Logits(x.simd, M, chunks, x.matrix.at, &side[0], dx.matrix.at, &loss[0])
    with nogil:
        run(_task, &s, threads_for(COST * <double> M))
    return float(losses.sum()), dlogits


cdef void _task(const void* call, int thread, int threads) noexcept nogil:
    """The chunks of one thread."""
    cdef const Logits* s = <const Logits*> call
    cdef Py_ssize_t k, at
    for k in range(part(s.chunks, 1, thread, threads), part(s.chunks, 1, thread + 1, threads)):
        at = k * CHUNK
        s.losses[k] = s.simd.sigmoid_loss(
            min(CHUNK, s.M - at), moved(s.simd, s.x, at), s.sides + at, moved(s.simd, s.dx, at))
