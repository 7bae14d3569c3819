"""The affine layer. Letters: M rows, D inputs, V outputs.

Few rows are multiplied with the weights where they stand, and many with packed ones. As in
recurrent.pyx, the gradients of the outputs are packed into panels, which those of the weights are
made from.
"""

import numpy as np

from .engine cimport (
    ROWS, Buffer, Matrix, Panels, Simd, View, barrier, check_shapes, moved, part, run,
    threads_for, transposed, view_of, with_precision, words, zeros,
)
from .panels cimport Columns, columns_of, from_row, pack, panels_at, rows_in_panels
from .products cimport (
    FEW_ROWS, Weights, pack_weights, product_with, round_panels, round_rows, rows_of, weights_for,
)
from .sums cimport Sums, gradient, gradient_scratch, rest_of, settle, sums_of


cdef enum:
    SMALL = 32768                 # numbers of W times rows for which the GIL is kept: microseconds


ctypedef struct Affine:
    const Simd* simd
    Py_ssize_t M, D, V, width     # of a panel
    Columns columns, inputs       # of V, of D
    int threads
    Py_ssize_t scratch            # numbers of scratch memory of a thread
    Matrix x, out                 # (M, D), (M, V), rows contiguous
    Matrix b, dx                  # (1, V), (M, D)
    Weights W, WT                 # (D, V), (V, D)
    Matrix operand                # (M, D) or (M, V): x forward, and out in backward, for their products
    Panels bias                   # (1, V), one row for all
    Panels dout_panels            # (M, V)
    Panels dout_columns           # the same, as an operand
    Sums dW, db                   # (D, V), (1, V)
    void* memory                  # (threads, scratch)


def affine_forward(x, W, b, *, precision=None):
    """x W + b. See `rnnfast.reference.ops.affine_forward` for the contract."""
    x = np.ascontiguousarray(x)
    cdef View given = view_of(x), weights = view_of(W), bias = view_of(b)
    out = np.empty(x.shape[:x.ndim - 1] + (weights.columns,), W.dtype)
    cdef Affine s = _affine(given, weights, view_of(out, True), 2, precision)
    cdef Buffer packed, packed_bias, operand
    check_shapes(weights.simd == bias.simd and bias.columns == s.V)
    s.W = weights_for(s.simd, weights.matrix, s.D, s.columns, s.M)
    if s.W.packed:
        packed = Buffer()
        s.W.panels = panels_at(
            s.simd, packed.reserve(s.columns.panels * s.D * s.width, s.simd.number), s.D)
    s.operand = s.x
    if s.simd.rounds:
        operand = Buffer()
        s.operand = Matrix(operand.reserve(s.M * s.D, s.simd.number), s.D, 1)
    s.b, s.bias = bias.matrix, rows_in_panels(s.simd, bias.matrix.at, 0)
    if s.b.column != 1:
        packed_bias = Buffer()
        s.bias.at = packed_bias.reserve(s.columns.panels * s.width, s.simd.number)
    if s.threads == 1 and s.M * s.D * s.V < SMALL:
        run(_forward_task, &s, 1)
        return out
    with nogil:
        run(_forward_task, &s, s.threads)
    return out


def affine_backward(dout, x, W, dW, db, *, precision=None):
    """Its gradients. See `rnnfast.reference.ops.affine_backward` for the contract."""
    dout, x = np.ascontiguousarray(dout), np.ascontiguousarray(x)
    dx = np.empty(x.shape, W.dtype)
    cdef View weights = view_of(W), of_W = view_of(dW, True), of_b = view_of(db, True)
    cdef View given = view_of(dout)
    cdef Affine s = _affine(view_of(x), weights, given, 4, precision)
    check_shapes(weights.simd == of_W.simd == of_b.simd and of_W.rows == s.D
                 and of_W.columns == of_b.columns == s.V)
    cdef Py_ssize_t P = s.columns.panels, number = s.simd.number
    cdef Py_ssize_t of_dW = P * (s.D + 1) * s.width, of_rest = rest_of(1, s.M, of_dW)
    cdef Buffer packed = Buffer(), gradients = Buffer(), rest = Buffer(), memory = Buffer()
    cdef Buffer of_WT, operand, columns
    s.dx = view_of(dx, True).matrix
    s.WT = weights_for(s.simd, transposed(weights.matrix), s.V, s.inputs, s.M)
    if s.WT.packed:
        of_WT = Buffer()
        s.WT.panels = panels_at(
            s.simd, of_WT.reserve(s.inputs.panels * s.V * s.width, number), s.V)
    s.dout_panels = panels_at(s.simd, packed.reserve(P * s.M * s.width, number), s.M)
    s.operand, s.dout_columns = s.out, s.dout_panels
    if s.simd.rounds:
        operand, columns = Buffer(), Buffer()
        s.operand = Matrix(operand.reserve(s.M * s.V, number), s.V, 1)
        s.dout_columns = panels_at(
            s.simd, columns.reserve(P * words(s.simd, s.M) * s.width, number), words(s.simd, s.M))
    cdef void* memory_of_dW = gradients.reserve(of_dW, number)
    cdef void* rest_of_dW = rest.zeroed(of_rest, number) if of_rest else NULL
    s.dW = sums_of(s.simd, s.columns, of_W.matrix, memory_of_dW, rest_of_dW, s.D)
    s.db = sums_of(s.simd, s.columns, of_b.matrix,
                   moved(s.simd, memory_of_dW, of_dW - P * s.width),
                   moved(s.simd, rest_of_dW, of_dW - P * s.width) if of_rest else NULL, 1)
    s.scratch = gradient_scratch(s.simd, s.D, s.M)
    s.memory = memory.reserve(s.threads * s.scratch, number)
    with nogil:
        run(_backward_task, &s, s.threads)
    return dx


cdef Affine _affine(
    View x,                       # IN (M, D)
    View W,                       # IN (D, V)
    View out,                     # IN or OUT (M, V): outputs, or their gradients
    double flops,                 # for each number of W and row of x
    precision,                    # of products: None, or "bfloat16"
) except *:
    """The layer with sizes, number of threads, and the rows of the caller."""
    cdef Affine s
    s.simd = with_precision(W.simd, precision)
    s.M, s.D, s.V, s.width = x.rows, W.rows, W.columns, 4 * s.simd.lanes
    check_shapes(x.simd == W.simd == out.simd and x.columns == s.D and out.columns == s.V
                 and out.rows == s.M)
    s.columns, s.inputs = columns_of(1, s.V, s.simd.lanes), columns_of(1, s.D, s.simd.lanes)
    # W is read in the time that a few rows take, if there are fewer
    s.threads = threads_for(flops * max(s.M, ROWS) * s.D * s.V)
    s.x, s.out = Matrix(x.matrix.at, s.D, 1), Matrix(out.matrix.at, s.V, 1)
    return s


cdef void _forward_task(const void* call, int thread, int threads) noexcept nogil:
    """out = b + x W"""
    cdef const Affine* s = <const Affine*> call
    cdef Py_ssize_t P = s.columns.panels
    cdef Py_ssize_t p0 = part(P, 1, thread, threads), p1 = part(P, 1, thread + 1, threads)
    pack_weights(&s.W, p0, p1)
    if s.bias.at != s.b.at:
        pack(s.simd, s.b, 1, s.columns, p0, p1, s.bias)
    round_rows(s.W.simd, part(s.M, ROWS, thread, threads), part(s.M, ROWS, thread + 1, threads), s.D,
               s.x, s.operand)
    if s.simd.rounds or _many_rows(s, threads):
        barrier(threads)
    _product(s, &s.W, s.bias, s.out, thread, threads)


cdef void _backward_task(const void* call, int thread, int threads) noexcept nogil:
    """dW = x^T dout, db = 1^T dout, dx = dout W^T"""
    cdef const Affine* s = <const Affine*> call
    cdef Py_ssize_t d0 = part(s.D, ROWS, thread, threads), d1 = part(s.D, ROWS, thread + 1, threads)
    cdef Py_ssize_t P = s.columns.panels
    cdef Py_ssize_t p0 = part(P, 1, thread, threads), p1 = part(P, 1, thread + 1, threads)
    cdef void* scratch = moved(s.simd, s.memory, thread * s.scratch)
    cdef char one[8]              # in any format; a column of ones is this one, again and again
    pack_weights(&s.WT, part(s.inputs.panels, 1, thread, threads),
                 part(s.inputs.panels, 1, thread + 1, threads))
    pack(s.simd, s.out, s.M, s.columns, p0, p1, s.dout_panels)
    round_panels(s.simd, s.M, p0, p1, s.dout_panels, s.dout_columns)
    round_rows(s.WT.simd, part(s.M, ROWS, thread, threads), part(s.M, ROWS, thread + 1, threads), s.V,
               s.out, s.operand)
    barrier(threads)
    gradient(s.simd, d0, d1, s.M, s.x, s.dout_columns, s.dW, scratch)
    settle(s.simd, d0, d1, s.dW)
    if thread == threads - 1:
        s.simd.fill(1, 1, &one[0])
        gradient(s.simd.exact, 0, 1, s.M, Matrix(&one[0], 0, 1), s.dout_panels, s.db, scratch)
        settle(s.simd, 0, 1, s.db)
    _product(s, &s.WT, zeros(), s.dx, thread, threads)


cdef bint _many_rows(const Affine* s, int threads) noexcept nogil:
    """Whether every thread has rows of a product; where they are few, it has columns."""
    return s.M > max(FEW_ROWS, ROWS * threads)


cdef void _product(
    const Affine* s, const Weights* B, Panels init, Matrix C, int thread, int threads,
) noexcept nogil:
    """The share of one thread in C = init + operand B"""
    cdef Py_ssize_t P = B.columns.panels, m0 = 0, m1 = s.M
    cdef Py_ssize_t p0 = part(P, 1, thread, threads), p1 = part(P, 1, thread + 1, threads)
    if _many_rows(s, threads):
        p0, p1 = 0, P
        m0, m1 = part(s.M, ROWS, thread, threads), part(s.M, ROWS, thread + 1, threads)
    if p0 < p1 and m0 < m1:
        product_with(m1 - m0, min(p1 * s.width, B.columns.used) - p0 * s.width,
                     rows_of(moved(s.simd, s.operand.at, m0 * s.operand.row), s.operand.row), B, p0,
                     from_row(s.simd, init, 0, p0),
                     rows_in_panels(s.simd, moved(s.simd, C.at, m0 * C.row + p0 * s.width), C.row))
