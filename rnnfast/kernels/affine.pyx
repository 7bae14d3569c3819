"""The affine layer. Letters: M rows, D inputs, V outputs.

As in recurrent.pyx, the gradients of the outputs are packed into panels, which those of the
weights are made from.
"""

import numpy as np

from cython.parallel cimport parallel, threadid

from .engine cimport (
    ROWS, Buffer, Columns, Matrix, Panels, Simd, Sums, barrier, check_shapes, columns_of,
    from_row, gradient, gradient_scratch, matrix_of, moved, pack, pack_transposed, panels_at,
    part, product, real, rest_of, row_of, rows_in_panels, rows_of, settle, simd_of, sums_of,
    team_size, threads_for, zeros,
)


ctypedef struct Affine:
    const Simd* simd
    Py_ssize_t M, D, V, width     # of a panel
    Columns columns, inputs       # of V, of D
    int threads
    Py_ssize_t scratch            # numbers of scratch memory of a thread
    Matrix x, out                 # (M, D), (M, V), rows contiguous
    Matrix W, b                   # (D, V), (1, V)
    Matrix dx
    Panels W_panels               # (D, V)
    Panels b_panels               # (1, V)
    Panels WT                     # (P*width, D)
    Panels dout_panels            # (M, V)
    Sums dW, db                   # (D, V), (1, V)
    void* memory                  # (threads, scratch)


def affine_forward(x, W, b):
    """x W + b. See `rnnfast.reference.ops.affine_forward` for the contract."""
    out = np.empty((len(x), W.shape[1]), W.dtype)
    _run_forward(np.ascontiguousarray(x), W, b, out)
    return out


def affine_backward(dout, x, W, dW, db):
    """Its gradients. See `rnnfast.reference.ops.affine_backward` for the contract."""
    dx = np.empty((len(x), W.shape[0]), W.dtype)
    _run_backward(np.ascontiguousarray(dout), np.ascontiguousarray(x), W, dW, db, dx)
    return dx


cdef Affine _affine(
    const real[:, ::1] x,         # IN (M, D)
    const real[:, :] W,           # IN (D, V)
    const real[:, ::1] out,       # IN or OUT (M, V): outputs, or their gradients
    double flops,                 # for each number of W and row of x
) noexcept:
    """The layer with sizes, number of threads, and the arrays of the caller."""
    cdef Affine s
    s.simd = simd_of(&W[0, 0])
    s.M, s.D, s.V, s.width = x.shape[0], x.shape[1], W.shape[1], 4 * s.simd.lanes
    s.columns, s.inputs = columns_of(1, s.V, s.simd.lanes), columns_of(1, s.D, s.simd.lanes)
    s.threads = threads_for(flops * s.M * s.D * s.V)
    s.x, s.out = Matrix(<void*> &x[0, 0], s.D, 1), Matrix(<void*> &out[0, 0], s.V, 1)
    s.W = matrix_of(W)
    return s


def _run_forward(
    const real[:, ::1] x,         # IN (M, D)
    const real[:, :] W,           # IN (D, V)
    const real[:] b,              # IN (V)
    real[:, ::1] out,             # OUT (M, V)
):
    check_shapes(W.shape[0] == x.shape[1] and W.shape[1] == b.shape[0] == out.shape[1])
    cdef Affine s = _affine(x, W, out, 2)
    cdef Buffer weights = Buffer()
    cdef Py_ssize_t numbers = s.columns.panels * s.D * s.width
    s.b = row_of(b)
    s.W_panels = panels_at(
        s.simd, weights.reserve(numbers + s.columns.panels * s.width, s.simd.number), s.D)
    s.b_panels = panels_at(s.simd, moved(s.simd, s.W_panels.at, numbers), 1)
    s.b_panels.row = 0            # one row for all
    with nogil:
        if s.threads == 1:
            _forward_task(&s, 0, 1)
        else:
            with parallel(num_threads=s.threads):
                _forward_task(&s, threadid(), team_size())


cdef void _forward_task(const Affine* s, int thread, int threads) noexcept nogil:
    """out = b + x W"""
    cdef Py_ssize_t P = s.columns.panels
    cdef Py_ssize_t p0 = part(P, 1, thread, threads), p1 = part(P, 1, thread + 1, threads)
    cdef Py_ssize_t m0 = 0, m1 = s.M
    pack(s.simd, s.W, s.D, s.columns, p0, p1, s.W_panels)
    pack(s.simd, s.b, 1, s.columns, p0, p1, s.b_panels)
    # few rows: every thread has its columns; many: every thread has its rows
    if m1 >= ROWS * threads:
        barrier(threads)
        m0, m1 = part(m1, ROWS, thread, threads), part(m1, ROWS, thread + 1, threads)
        p0, p1 = 0, P
    if p0 < p1 and m0 < m1:
        product(s.simd, m1 - m0, min(p1 * s.width, s.V) - p0 * s.width, s.D,
                rows_of(moved(s.simd, s.x.at, m0 * s.D), s.D),
                from_row(s.simd, s.W_panels, 0, p0), from_row(s.simd, s.b_panels, 0, p0),
                rows_in_panels(s.simd, moved(s.simd, s.out.at, m0 * s.V + p0 * s.width), s.V))


def _run_backward(
    const real[:, ::1] dout,      # IN (M, V)
    const real[:, ::1] x,         # IN (M, D)
    const real[:, :] W,           # IN (D, V)
    real[:, :] dW,                # OUT (D, V)
    real[:] db,                   # OUT (V)
    real[:, ::1] dx,              # OUT (M, D)
):
    check_shapes(W.shape[0] == dW.shape[0] == x.shape[1] == dx.shape[1]
                 and W.shape[1] == dW.shape[1] == db.shape[0] == dout.shape[1])
    cdef Affine s = _affine(x, W, dout, 4)
    cdef Py_ssize_t P = s.columns.panels, number = s.simd.number
    cdef Py_ssize_t of_dW = P * (s.D + 1) * s.width, of_rest = rest_of(1, s.M, of_dW)
    cdef Buffer weights = Buffer(), packed = Buffer(), gradients = Buffer(), rest = Buffer()
    cdef Buffer memory = Buffer()
    s.dx = Matrix(&dx[0, 0], s.D, 1)
    s.WT = panels_at(
        s.simd, weights.reserve(s.inputs.panels * P * s.width * s.width, number), P * s.width)
    s.dout_panels = panels_at(s.simd, packed.reserve(P * s.M * s.width, number), s.M)
    cdef void* memory_of_dW = gradients.reserve(of_dW, number)
    cdef void* rest_of_dW = rest.zeroed(of_rest, number) if of_rest else NULL
    s.dW = sums_of(s.simd, s.columns, matrix_of(dW), memory_of_dW, rest_of_dW, s.D)
    s.db = sums_of(s.simd, s.columns, row_of(db), moved(s.simd, memory_of_dW, of_dW - P * s.width),
                   moved(s.simd, rest_of_dW, of_dW - P * s.width) if of_rest else NULL, 1)
    s.scratch = gradient_scratch(s.simd, s.D, s.M)
    s.memory = memory.reserve(s.threads * s.scratch, number)
    with nogil:
        if s.threads == 1:
            _backward_task(&s, 0, 1)
        else:
            with parallel(num_threads=s.threads):
                _backward_task(&s, threadid(), team_size())


cdef void _backward_task(const Affine* s, int thread, int threads) noexcept nogil:
    """dW = x^T dout, db = 1^T dout, dx = dout W^T"""
    cdef Py_ssize_t m0 = part(s.M, ROWS, thread, threads), m1 = part(s.M, ROWS, thread + 1, threads)
    cdef Py_ssize_t d0 = part(s.D, ROWS, thread, threads), d1 = part(s.D, ROWS, thread + 1, threads)
    cdef Py_ssize_t P = s.columns.panels
    cdef void* scratch = moved(s.simd, s.memory, thread * s.scratch)
    cdef char one[8]              # in any format; a column of ones is this one, again and again
    pack_transposed(s.simd, s.W, s.D, s.columns, part(s.inputs.panels, 1, thread, threads),
                    part(s.inputs.panels, 1, thread + 1, threads), s.WT)
    pack(s.simd, s.out, s.M, s.columns, part(P, 1, thread, threads),
         part(P, 1, thread + 1, threads), s.dout_panels)
    barrier(threads)
    gradient(s.simd, d0, d1, s.M, s.x, s.dout_panels, s.dW, scratch)
    settle(s.simd, d0, d1, s.dW)
    if thread == threads - 1:
        s.simd.fill(1, 1, &one[0])
        gradient(s.simd, 0, 1, s.M, Matrix(&one[0], 0, 1), s.dout_panels, s.db, scratch)
        settle(s.simd, 0, 1, s.db)
    if m0 < m1:
        product(s.simd, m1 - m0, s.D, s.V, rows_of(moved(s.simd, s.out.at, m0 * s.V), s.V), s.WT,
                zeros(), rows_in_panels(s.simd, moved(s.simd, s.dx.at, m0 * s.D), s.D))
