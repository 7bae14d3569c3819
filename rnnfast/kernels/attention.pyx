"""Dot-product attention: all products of a row of the batch, one after the other, while what it has
is in the caches. Letters: N batch rows, S steps of the encoder, T of the decoder, H hidden size.
"""

import numpy as np

from libc.stdint cimport int64_t

from .engine cimport (
    Buffer, Matrix, Panels, Simd, View, Walk, moved, run, threads_for, transposed, view_of, zeros,
)
from .panels cimport Columns, columns_of, pack, panels_at, rows_in_panels
from .products cimport Weights, pack_weights, product, product_with, rows_of, weights_for


ctypedef struct Attention:
    const Simd* simd
    Py_ssize_t N, S, T, H
    const int64_t* lengths        # (N), or NULL where all rows have S steps
    void* enc                     # (N, S, H)
    void* dec                     # (N, T, H)
    void* contexts                # (N, T, H), or their gradient
    void* weights                 # (N, T, S)
    void* denc                    # (N, S, H)
    void* ddec                    # (N, T, H)
    int threads
    Py_ssize_t packed             # numbers of memory for a matrix in panels
    Py_ssize_t scratch            # numbers of scratch memory of a thread
    void* memory                  # (threads, scratch): a matrix in panels, then scores (T, S)


# What one row of the batch has.
ctypedef struct Row:
    Py_ssize_t steps
    Matrix enc                    # (S, H)
    void* dec                     # (T, H)
    void* contexts                # (T, H)
    void* weights                 # (T, S)


def attention_forward(enc, dec, lengths):
    """Contexts and weights. See `rnnfast.reference.ops.attention_forward` for the contract."""
    enc, dec = np.ascontiguousarray(enc), np.ascontiguousarray(dec)
    weights = np.empty((*dec.shape[:2], enc.shape[1]), dec.dtype)
    contexts = np.empty(dec.shape, dec.dtype)
    cdef const int64_t[::1] steps = lengths
    cdef Attention s = _attention(
        len(enc), view_of(enc), view_of(dec), view_of(contexts, True), view_of(weights, True), 4)
    cdef Buffer memory = Buffer()
    s.memory = memory.reserve(s.threads * s.scratch, s.simd.number)
    if steps is not None:
        s.lengths = &steps[0]
    with nogil:
        run(_forward_task, &s, s.threads)
    return contexts, weights


def attention_backward(dout, enc, dec, weights, lengths):
    """Gradients. See `rnnfast.reference.ops.attention_backward` for the contract."""
    dout, enc, dec = map(np.ascontiguousarray, (dout, enc, dec))
    denc, ddec = np.empty(enc.shape, enc.dtype), np.empty(dec.shape, dec.dtype)
    cdef const int64_t[::1] steps = lengths
    cdef Attention s = _attention(
        len(enc), view_of(enc), view_of(dec), view_of(dout), view_of(weights), 8)
    cdef Buffer memory = Buffer()
    s.denc, s.ddec = view_of(denc, True).matrix.at, view_of(ddec, True).matrix.at
    s.memory = memory.reserve(s.threads * s.scratch, s.simd.number)
    if steps is not None:
        s.lengths = &steps[0]
    with nogil:
        run(_backward_task, &s, s.threads)
    return denc, ddec


cdef Attention _attention(
    Py_ssize_t N,
    View enc,                     # IN (N, S, H)
    View dec,                     # IN (N, T, H)
    View contexts,                # IN or OUT (N, T, H)
    View weights,                 # IN or OUT (N, T, S)
    double flops,                 # for each weight and unit
) noexcept:
    """Sizes, the arrays of the caller, and how much scratch memory there has to be."""
    cdef Attention s
    cdef Py_ssize_t L = enc.simd.lanes
    s.simd, s.N, s.S, s.T, s.H = enc.simd, N, enc.rows // N, dec.rows // N, enc.columns
    s.enc, s.dec, s.contexts = enc.matrix.at, dec.matrix.at, contexts.matrix.at
    s.weights, s.denc, s.ddec, s.memory, s.lengths = weights.matrix.at, NULL, NULL, NULL, NULL
    s.threads = threads_for(flops * N * s.T * s.S * s.H)
    s.packed = 4 * L * max(columns_of(1, s.S, L).panels * s.H,
                           columns_of(1, s.H, L).panels * max(s.S, s.T))
    s.scratch = s.packed + s.T * s.S
    return s


cdef Row _row(const Attention* s, Py_ssize_t n) noexcept nogil:
    cdef Row row
    row.steps = s.S if s.lengths == NULL else s.lengths[n]
    row.enc = Matrix(moved(s.simd, s.enc, n * s.S * s.H), s.H, 1)
    row.dec = moved(s.simd, s.dec, n * s.T * s.H)
    row.contexts = moved(s.simd, s.contexts, n * s.T * s.H)
    row.weights = moved(s.simd, s.weights, n * s.T * s.S)
    return row


cdef void _forward_task(const void* call, int thread, int threads) noexcept nogil:
    """weights = softmax(dec enc^T), contexts = weights enc; a thread has every so many-th row"""
    cdef const Attention* s = <const Attention*> call
    cdef void* memory = moved(s.simd, s.memory, thread * s.scratch)
    cdef Py_ssize_t n = thread, t
    cdef Row row
    cdef void* weights
    cdef double top, total
    while n < s.N:
        row = _row(s, n)
        if row.steps > 0:
            _multiply(s, s.H, row.steps, row.dec, s.H, transposed(row.enc), row.weights, s.S, memory)
            for t in range(s.T):
                weights = moved(s.simd, row.weights, t * s.S)
                top = s.simd.largest(row.steps, weights)
                total = s.simd.exp_shifted(row.steps, top, weights)
                s.simd.scale(row.steps, 1 / total, weights)
                s.simd.fill(s.S - row.steps, 0, moved(s.simd, weights, row.steps))
            _multiply(s, row.steps, s.H, row.weights, s.S, row.enc, row.contexts, s.H, memory)
        else:
            s.simd.fill(s.T * s.S, 0, row.weights)
            s.simd.fill(s.T * s.H, 0, row.contexts)
        n += threads


cdef void _backward_task(const void* call, int thread, int threads) noexcept nogil:
    """dscores = weights (dweights - sum of dweights weights), dweights = dout enc^T;
    ddec = dscores enc, denc = weights^T dout + dscores^T dec"""
    cdef const Attention* s = <const Attention*> call
    cdef void* memory = moved(s.simd, s.memory, thread * s.scratch)
    cdef void* scores = moved(s.simd, memory, s.packed)
    cdef Py_ssize_t n = thread, t
    cdef Row row
    cdef void *denc
    cdef void *ddec
    while n < s.N:
        row = _row(s, n)
        denc = moved(s.simd, s.denc, n * s.S * s.H)
        ddec = moved(s.simd, s.ddec, n * s.T * s.H)
        if row.steps > 0:
            _multiply(s, s.H, row.steps, row.contexts, s.H, transposed(row.enc), scores, s.S, memory)
            for t in range(s.T):
                s.simd.softmax_gradient(row.steps, moved(s.simd, row.weights, t * s.S),
                                        moved(s.simd, scores, t * s.S))
            _multiply(s, row.steps, s.H, scores, s.S, row.enc, ddec, s.H, memory)
            _multiply_transposed(s, row.steps, row.weights, row.contexts, False, denc, memory)
            _multiply_transposed(s, row.steps, scores, row.dec, True, denc, memory)
        else:
            s.simd.fill(s.T * s.H, 0, ddec)
        s.simd.fill((s.S - row.steps) * s.H, 0, moved(s.simd, denc, row.steps * s.H))
        n += threads


cdef void _multiply(
    const Attention* s,
    Py_ssize_t K,
    Py_ssize_t columns,
    const void* A,                # IN (T, K), rows a_row apart
    Py_ssize_t a_row,
    Matrix B,                     # IN (K, columns)
    void* C,                      # OUT (T, columns), rows c_row apart
    Py_ssize_t c_row,
    void* memory,
) noexcept nogil:
    """C = A B"""
    cdef Columns of_B = columns_of(1, columns, s.simd.lanes)
    cdef Weights weights = weights_for(s.simd, B, K, of_B, s.T)
    if weights.packed:
        weights.panels = panels_at(s.simd, memory, K)
    pack_weights(&weights, 0, of_B.panels)
    product_with(s.T, columns, rows_of(A, a_row), &weights, 0, zeros(),
                 rows_in_panels(s.simd, C, c_row))


cdef void _multiply_transposed(
    const Attention* s,
    Py_ssize_t steps,
    const void* A,                # IN (T, steps), rows S apart
    void* B,                      # IN (T, H)
    bint add,
    void* C,                      # OUT (steps, H)
    void* memory,
) noexcept nogil:
    """C = A^T B, or C += A^T B"""
    cdef Columns of_B = columns_of(1, s.H, s.simd.lanes)
    cdef Panels B_panels = panels_at(s.simd, memory, s.T), to = rows_in_panels(s.simd, C, s.H)
    pack(s.simd, Matrix(B, s.H, 1), s.T, of_B, 0, of_B.panels, B_panels)
    product(s.simd, steps, s.H, s.T, Walk(A, 1, 1, s.S, s.T, 0), B_panels,
            to if add else zeros(), to)
