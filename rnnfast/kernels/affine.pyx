"""The affine layer, alone and in one pass with softmax and cross entropy.

Letters: M rows, D inputs, V outputs. As in recurrent.pyx, rows of x end in a 1 and b is the last
row of packed W: out = [x 1] [W b], and the gradient of b is the last row of that of W.

The fused loss goes through the rows in blocks, whose logits stand in panels (P, rows, W), as the
gates of a cell do: where they are written is where both products of their gradient read them, and
no array of M * V exists. With e = e^(logit - largest) and s = sum of e, the gradient of the
logits, (e / s - onehot) / count, is never formed either: e - s onehot is left in the block, and
1 / (s count) goes into the rows of x, for dW, and of dx.
"""

import numpy as np

from cython.parallel cimport parallel, threadid
from libc.math cimport INFINITY, log
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from .engine cimport (
    Buffer, Columns, Walk, barrier, columns_of, computed, gradient, gradient_scratch, lanes_of,
    pack, pack_transposed, padded, panel_exp, panel_top, part, product, real, rows_of, scale,
    team_size, threads_for, unpack,
)

cdef enum:
    BLOCK_BYTES = 16777216        # of logits at a time: every block reads all of W and dW once more
    PANELS_WORTH = 8              # panels that make up for reading x once more


# ---------------------------------------------------------------- the layer alone

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


def _run_forward(
    const real[:, ::1] x,         # IN (M, D)
    const real[:, :] W,           # IN (D, V)
    const real[:] b,              # IN (V)
    real[:, ::1] out,             # OUT (M, V)
):
    cdef Py_ssize_t size = sizeof(real), M = x.shape[0], D = x.shape[1], V = out.shape[1]
    cdef Columns columns = columns_of(1, V, lanes_of(&x[0, 0]))
    cdef Buffer weights = Buffer()
    cdef real* W_p = <real*> weights.reserve(columns.panels * (D + 2) * 4 * columns.lanes, size)
    cdef int n = threads_for(2.0 * M * D * V)
    with nogil:
        if n == 1:
            _forward_task(0, 1, x, W, b, columns, W_p, out)
        else:
            with parallel(num_threads=n):
                _forward_task(threadid(), team_size(), x, W, b, columns, W_p, out)


cdef void _forward_task(
    int thread, int threads, const real[:, ::1] x, const real[:, :] W, const real[:] b,
    Columns columns, real* W_p, real[:, ::1] out,
) noexcept nogil:
    cdef Py_ssize_t size = sizeof(real), D = x.shape[1], V = out.shape[1], P = columns.panels
    cdef Py_ssize_t width = 4 * columns.lanes
    cdef Py_ssize_t p0 = part(P, 1, thread, threads), p1 = part(P, 1, thread + 1, threads)
    cdef Py_ssize_t m0 = 0, m1 = x.shape[0]
    cdef real* bias = W_p + P * D * width
    pack(&W[0, 0], W.strides[0] // size, W.strides[1] // size, D, columns, p0, p1, W_p, D * width)
    pack(&b[0], 0, b.strides[0] // size, 1, columns, p0, p1, bias, width)
    # few rows: every thread has its columns; many: every thread has its rows
    if m1 >= 6 * threads:
        barrier(threads)
        m0, m1 = part(m1, 6, thread, threads), part(m1, 6, thread + 1, threads)
        p0, p1 = 0, P
    if p0 < p1 and m0 < m1:
        product(m1 - m0, min(p1 * width, V) - p0 * width, D, &x[m0, 0], rows_of(D),
                W_p + p0 * D * width, D * width, bias + p0 * width, 0, width,
                &out[m0, p0 * width], V, width)


def _run_backward(
    const real[:, ::1] dout,      # IN (M, V)
    const real[:, ::1] x,         # IN (M, D)
    const real[:, :] W,           # IN (D, V)
    real[:, :] dW,                # OUT (D, V)
    real[:] db,                   # OUT (V)
    real[:, ::1] dx,              # OUT (M, D)
):
    cdef Py_ssize_t size = sizeof(real), M = x.shape[0], D = x.shape[1], V = dout.shape[1]
    cdef Columns columns = columns_of(1, V, lanes_of(&x[0, 0]))
    cdef Columns inputs = columns_of(1, D, columns.lanes)
    cdef Py_ssize_t P = columns.panels, width = 4 * columns.lanes
    cdef int n = threads_for(4.0 * M * D * V)
    cdef Py_ssize_t of_thread = gradient_scratch(D, M, size)
    cdef Buffer weights = Buffer(), packed = Buffer(), gradients = Buffer(), rest = Buffer()
    cdef real* WT = <real*> weights.reserve(inputs.panels * P * width * width, size)
    cdef real* dout_p = <real*> packed.reserve(P * M * width, size)
    cdef real* dW_p = <real*> gradients.reserve(P * (D + 1) * width, size)
    cdef real* scratch = <real*> rest.reserve(n * of_thread + width, size)
    cdef real* zeros = scratch + n * of_thread
    memset(zeros, 0, width * size)
    with nogil:
        if n == 1:
            _backward_task(0, 1, dout, x, W, dW, db, columns, inputs, WT, dout_p, dW_p, scratch,
                           zeros, dx)
        else:
            with parallel(num_threads=n):
                _backward_task(threadid(), team_size(), dout, x, W, dW, db, columns, inputs, WT,
                               dout_p, dW_p, scratch + threadid() * of_thread, zeros, dx)


cdef void _backward_task(
    int thread, int threads, const real[:, ::1] dout, const real[:, ::1] x, const real[:, :] W,
    real[:, :] dW, real[:] db, Columns columns, Columns inputs, real* WT, real* dout_p, real* dW_p,
    real* scratch, const real* zeros, real[:, ::1] dx,
) noexcept nogil:
    """dW = x^T dout, db = 1^T dout, dx = dout W^T"""
    cdef Py_ssize_t size = sizeof(real), M = x.shape[0], D = x.shape[1], V = dout.shape[1]
    cdef Py_ssize_t P = columns.panels, width = 4 * columns.lanes
    cdef Py_ssize_t m0 = part(M, 6, thread, threads), m1 = part(M, 6, thread + 1, threads)
    cdef Py_ssize_t d0 = part(D, 6, thread, threads), d1 = part(D, 6, thread + 1, threads)
    cdef real one = 1
    pack_transposed(&W[0, 0], W.strides[0] // size, W.strides[1] // size, D, columns,
                    part(inputs.panels, 1, thread, threads),
                    part(inputs.panels, 1, thread + 1, threads), WT)
    pack(&dout[0, 0], V, 1, M, columns, part(P, 1, thread, threads),
         part(P, 1, thread + 1, threads), dout_p, M * width)
    barrier(threads)
    if d0 < d1:
        gradient(d0, d1, computed(columns), M, &x[0, 0], D, dout_p, M * width, False, dW_p,
                 (D + 1) * width, scratch, zeros)
        unpack(dW_p + d0 * width, (D + 1) * width, d1 - d0, columns, &dW[d0, 0],
               dW.strides[0] // size, dW.strides[1] // size)
    if thread == threads - 1:
        gradient(0, 1, computed(columns), M, &one, 0, dout_p, M * width, False, dW_p + D * width,
                 (D + 1) * width, scratch, zeros)
        unpack(dW_p + D * width, (D + 1) * width, 1, columns, &db[0], 0, db.strides[0] // size)
    if m0 < m1:
        product(m1 - m0, D, V, &dout[m0, 0], rows_of(V), WT, P * width * width, zeros, 0, 0,
                &dx[m0, 0], D, width)


# ---------------------------------------------------------------- fused with the loss

cdef class LossCache:
    """What backward needs of forward, and scratch memory, kept from call to call."""

    cdef Py_ssize_t M, D, V
    cdef Py_ssize_t size          # of a number, in bytes
    cdef bint has_gradient        # the last forward succeeded, and was told to compute it
    cdef bint busy                # a call of another Python thread uses the memory
    cdef Buffer x, weights, transposed, block, tops, sums, losses, dx, dW, scratch

    def __cinit__(self):
        self.x, self.weights, self.transposed = Buffer(), Buffer(), Buffer()
        self.block, self.tops, self.sums = Buffer(), Buffer(), Buffer()
        self.losses, self.dx, self.dW, self.scratch = Buffer(), Buffer(), Buffer(), Buffer()


def affine_loss_forward(x, W, b, targets, ignore_label, *, need_gradient=True, cache=None):
    """Loss of x W + b. See `rnnfast.reference.ops.affine_loss_forward` for the contract."""
    cdef LossCache own = cache
    if own is None or own.busy:
        own = LossCache()
    count = int(np.count_nonzero(targets != ignore_label))
    own.busy, own.has_gradient = True, False
    try:
        total = _run_loss(np.ascontiguousarray(x), W, b, targets, ignore_label, count,
                          need_gradient, own)
    finally:
        own.busy = False
    return total, count, own


def affine_loss_backward(cache, scale, dW, db):
    """Its gradients. See `rnnfast.reference.ops.affine_loss_backward` for the contract."""
    cdef LossCache own = cache
    if own.busy:
        raise RuntimeError(
            "backward: another thread is calling this layer; give every thread a layer of its own"
        )
    if not own.has_gradient or (own.D, own.V, own.size) != (*dW.shape, dW.itemsize):
        raise RuntimeError(
            f"backward: expected a forward call before it, for weights of shape {dW.shape} and "
            f"dtype {dW.dtype}, that was told to compute gradients; call forward first"
        )
    dx = np.empty((own.M, own.D), dW.dtype)
    own.busy = True
    try:
        _run_loss_backward(own, dW, db, dx)
    finally:
        own.busy = False
    if scale != 1:
        for gradient_of in (dW, db, dx):
            gradient_of *= scale
    return dx


ctypedef struct Loss:
    Py_ssize_t M, D, V, L, W, P
    Py_ssize_t x_row              # length of a padded row of x
    Py_ssize_t block              # rows of a block
    Py_ssize_t scratch            # numbers of scratch memory of a thread
    int64_t ignore_label
    double factor                 # 1 / how many rows count
    Columns columns, inputs
    bint need_gradient


def _run_loss(
    const real[:, ::1] x,         # IN (M, D)
    const real[:, :] W,           # IN (D, V)
    const real[:] b,              # IN (V)
    const int64_t[::1] targets,   # IN (M)
    int64_t ignore_label,
    Py_ssize_t count,
    bint need_gradient,
    LossCache cache,
):
    """The sum of the losses; gradients of their mean are left in the cache."""
    cdef Py_ssize_t size = sizeof(real), m, n_blocks
    cdef Loss s
    s.M, s.D, s.V = x.shape[0], x.shape[1], W.shape[1]
    s.L = lanes_of(&x[0, 0])
    s.W = 4 * s.L
    s.columns, s.inputs = columns_of(1, s.V, s.L), columns_of(1, s.D, s.L)
    s.P = s.columns.panels
    s.x_row = padded(s.D + 1, size)
    s.ignore_label, s.factor, s.need_gradient = ignore_label, 1.0 / max(count, 1), need_gradient
    # blocks of equal size, so that no thread waits for a small last one
    n_blocks = (s.M * s.P * s.W * size + BLOCK_BYTES - 1) // BLOCK_BYTES
    s.block = min(s.M, ((s.M + n_blocks - 1) // n_blocks + 5) // 6 * 6)
    cdef int threads = threads_for(6.0 * s.M * s.D * s.V)

    cdef real* x_c = <real*> cache.x.reserve(s.M * s.x_row, size)
    cdef real* W_p = <real*> cache.weights.reserve(s.P * (s.D + 1) * s.W + s.W, size)
    cdef real* zeros = W_p + s.P * (s.D + 1) * s.W
    cdef real* block = <real*> cache.block.reserve(min(threads, 2) * s.P * s.block * s.W,
                                                           size)
    cdef real* tops = <real*> cache.tops.reserve(s.block * (s.L + 1), size)
    cdef double* sums = <double*> cache.sums.reserve(s.block * s.L, sizeof(double))
    cdef double* losses = <double*> cache.losses.reserve(s.M, sizeof(double))
    cdef real *WT = NULL
    cdef real *dx = NULL
    cdef real *dW = NULL
    cdef real *scratch = NULL
    if need_gradient:
        WT = <real*> cache.transposed.reserve(s.inputs.panels * s.P * s.W * s.W, size)
        dx = <real*> cache.dx.reserve(s.M * s.D, size)
        dW = <real*> cache.dW.reserve(s.P * (s.D + 1) * s.W, size)
        s.scratch = gradient_scratch(s.D + 1, s.block, size)
        scratch = <real*> cache.scratch.reserve(threads * s.scratch, size)
    memset(zeros, 0, s.W * size)
    with nogil:
        if threads == 1:
            _loss_task(s, 0, 1, x, W, b, targets, x_c, W_p, WT, block, tops, sums, losses, dx, dW,
                       scratch, zeros)
        else:
            with parallel(num_threads=threads):
                _loss_task(s, threadid(), team_size(), x, W, b, targets, x_c, W_p, WT, block, tops,
                           sums, losses, dx, dW, scratch, zeros)
    cache.M, cache.D, cache.V, cache.size, cache.has_gradient = s.M, s.D, s.V, size, need_gradient
    cdef double total = 0
    for m in range(s.M):
        total += losses[m]
    return total


cdef void _loss_task(
    Loss s, int thread, int threads, const real[:, ::1] x, const real[:, :] W, const real[:] b,
    const int64_t[::1] targets,
    real* x_c,                    # OUT (M, x_row): rows of x, and a 1 at their end; later scaled
    real* W_p,                    # OUT (P, D + 1, W): W, and b below it
    real* WT,                     # OUT panels of W^T, (ceil(D / W), P * W, W)
    real* blocks,                 # OUT (1 or 2, P, block, W): logits, then e - s onehot
    real* tops,                   # OUT (block, L) running maxima, then (block) the largest
    double* sums,                 # OUT (block, L) running sums
    double* losses,               # OUT (M)
    real* dx,                     # OUT (M, D)
    real* dW,                     # OUT (P, D + 1, W): dW, and db below it
    real* scratch,                # (threads, scratch)
    const real* zeros,            # IN (W)
) noexcept nogil:
    """The share of one thread: rows of the block, and panels of dW."""
    cdef Py_ssize_t size = sizeof(real), m, r, rows, r0, r1
    cdef Py_ssize_t p0 = part(s.P, 1, thread, threads), p1 = part(s.P, 1, thread + 1, threads)
    cdef Py_ssize_t d0 = 0, d1 = s.D + 1
    cdef Walk e
    cdef real* block
    pack(&W[0, 0], W.strides[0] // size, W.strides[1] // size, s.D, s.columns, p0, p1, W_p,
         (s.D + 1) * s.W)
    pack(&b[0], 0, b.strides[0] // size, 1, s.columns, p0, p1, W_p + s.D * s.W, (s.D + 1) * s.W)
    if s.need_gradient:
        pack_transposed(&W[0, 0], W.strides[0] // size, W.strides[1] // size, s.D, s.columns,
                        part(s.inputs.panels, 1, thread, threads),
                        part(s.inputs.panels, 1, thread + 1, threads), WT)
    barrier(threads)
    # of dW every thread has panels, which only it reads then, or rows where panels are few
    if s.P < PANELS_WORTH * threads:
        p0, p1 = 0, s.P
        d0, d1 = part(d1, 6, thread, threads), part(d1, 6, thread + 1, threads)
    scratch += thread * s.scratch
    e.row, e.tile, e.k_stride, e.width, e.block = s.W, s.W, 1, s.W, s.block * s.W
    m = 0
    block = blocks
    while m < s.M:
        rows = min(s.block, s.M - m)
        r0, r1 = part(rows, 6, thread, threads), part(rows, 6, thread + 1, threads)
        if r0 < r1:
            _loss_rows(s, m, r0, r1, x, targets, x_c, W_p, block, tops, sums, losses, zeros)
            if s.need_gradient:
                product(r1 - r0, s.D, s.V, block + r0 * s.W, e, WT, s.P * s.W * s.W, zeros, 0, 0,
                        dx + (m + r0) * s.D, s.D, s.W)
                for r in range(m + r0, m + r1):
                    scale(s.D, x_c[r * s.x_row + s.D], dx + r * s.D)
        barrier(threads)
        if s.need_gradient and p0 < p1:
            gradient(d0, d1, min(p1 * s.W, computed(s.columns)) - p0 * s.W, rows,
                     x_c + m * s.x_row, s.x_row, block + p0 * s.block * s.W, s.block * s.W, m > 0,
                     dW + p0 * (s.D + 1) * s.W, (s.D + 1) * s.W, scratch, zeros)
        # the next block has the other half of the memory: nobody need wait for this one's readers
        if threads > 1:
            block = blocks + s.P * s.block * s.W if block == blocks else blocks
        m += rows


cdef void _loss_rows(
    Loss s, Py_ssize_t m, Py_ssize_t r0, Py_ssize_t r1, const real[:, ::1] x,
    const int64_t[::1] targets, real* x_c, const real* W_p, real* block, real* tops, double* sums,
    double* losses, const real* zeros,
) noexcept nogil:
    """Rows r0 ... r1 - 1 of the block that begins at row m: logits, then e - s onehot.

    loss = log(s) + largest - logit of the target
    """
    cdef Py_ssize_t size = sizeof(real), p, r, j
    cdef real *row
    cdef real *panel
    cdef real *largest = tops + s.block * s.L
    cdef real *target
    cdef double total
    for r in range(r0, r1):
        row = x_c + (m + r) * s.x_row
        memcpy(row, &x[m + r, 0], s.D * size)
        row[s.D] = 1
    for r in range(r0, r1):
        for j in range(s.L):
            tops[r * s.L + j] = -INFINITY
            sums[r * s.L + j] = 0
    for p in range(s.P):
        panel = block + (p * s.block + r0) * s.W
        product(r1 - r0, min(s.W, s.V - p * s.W), s.D + 1, x_c + (m + r0) * s.x_row,
                rows_of(s.x_row), W_p + p * (s.D + 1) * s.W, 0, zeros, 0, 0, panel, s.W, 0)
        panel_top(r1 - r0, min(s.W, s.V - p * s.W), panel, tops + r0 * s.L)
    for r in range(r0, r1):
        largest[r] = tops[r * s.L]
        for j in range(1, s.L):
            largest[r] = max(largest[r], tops[r * s.L + j])
        losses[m + r] = 0
        if targets[m + r] != s.ignore_label:
            losses[m + r] = <double> largest[r] - _at(s, block, r, targets[m + r])[0]
    for p in range(s.P):
        panel_exp(r1 - r0, min(s.W, s.V - p * s.W), block + (p * s.block + r0) * s.W,
                  largest + r0, sums + r0 * s.L)
    for r in range(r0, r1):
        row = x_c + (m + r) * s.x_row
        total = 0
        for j in range(s.L):
            total += sums[r * s.L + j]
        if targets[m + r] == s.ignore_label:
            scale(s.D + 1, <real> 0, row)
        else:
            losses[m + r] += log(total)
            target = _at(s, block, r, targets[m + r])
            target[0] = <real> (target[0] - total)
            scale(s.D + 1, <real> (s.factor / total), row)


cdef inline real* _at(Loss s, real* block, Py_ssize_t r, Py_ssize_t v) noexcept nogil:
    """Column v of row r of the block."""
    return block + (v // s.W * s.block + r) * s.W + v % s.W


def _run_loss_backward(
    LossCache cache,
    real[:, :] dW,                # OUT (D, V)
    real[:] db,                   # OUT (V)
    real[:, ::1] dx,              # OUT (M, D)
):
    """The gradients that forward left in the cache."""
    cdef Py_ssize_t size = sizeof(real), D = cache.D
    cdef Columns columns = columns_of(1, cache.V, lanes_of(&db[0]))
    cdef Py_ssize_t W = 4 * columns.lanes
    cdef real* dW_p = <real*> cache.dW.reserve(0, size)
    memcpy(&dx[0, 0], cache.dx.reserve(0, size), cache.M * D * size)
    with nogil:
        unpack(dW_p, (D + 1) * W, D, columns, &dW[0, 0], dW.strides[0] // size,
               dW.strides[1] // size)
        unpack(dW_p + D * W, (D + 1) * W, 1, columns, &db[0], 0, db.strides[0] // size)
