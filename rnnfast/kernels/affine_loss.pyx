"""Affine layer, softmax and cross entropy in one pass. Letters: M rows, D inputs, V outputs.

As in recurrent.pyx, rows of x end in a 1 and b is the last row of packed W: out = [x 1] [W b], and
the gradient of b is the last row of that of W.

The rows go through in blocks, whose logits stand in panels (P, rows, W), as the gates of a cell
do: where they are written is where both products of their gradient read them, and no array of
M * V exists. With e = e^(logit - largest) and s = sum of e, the gradient of the logits,
(e / s - onehot) / count, is never formed either: e - s onehot is left in the block, and
1 / (s count) goes into the rows of x, for dW, and of dx.
"""

import numpy as np

from libc.math cimport INFINITY, log
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from .engine cimport (
    ROWS, Buffer, Matrix, Panels, Simd, Workspace, barrier, below, check_shapes, matrix_of, moved,
    padded, part, real, row_of, run, simd_of, threads_for, with_precision, words, zeros,
)
from .panels cimport (
    Columns, columns_of, from_row, pack, pack_operand, pack_transposed, panels_at, rows_in_panels,
)
from .products cimport (
    across, panels_as_operand, panels_as_rows, product, round_panel_rows, round_panels, round_rows,
    rows_of,
)
from .sums cimport Sums, gradient, gradient_scratch, rest_of, settle, sums_of

cdef enum:
    BLOCK_BYTES = 16777216        # of logits at a time: every block reads all of W and dW once more
    PANELS_WORTH = 8              # panels that make up for reading x once more
    COLUMNS = 64                  # of dW that are copied together


ctypedef struct Loss:
    const Simd* simd
    Py_ssize_t M, D, V, L, width
    Columns columns, inputs       # of V, of D
    Py_ssize_t block              # rows of a block
    Py_ssize_t scratch            # numbers of scratch memory of a thread
    int threads
    int64_t ignore_label
    double factor                 # 1 / how many rows count
    bint need_gradient


ctypedef struct Memory:
    Matrix given_x                # IN (M, D), rows contiguous
    Matrix W, b                   # IN (D, V), (1, V)
    const int64_t* targets        # IN (M)
    Matrix x                      # (M, D + 1): rows of x, and a 1 at their end; later scaled
    Matrix x_operand              # (block, D): rows of x for the product, if they are rounded
    Panels W_panels               # (D + 1, V): W, and b below it, unless W is rounded
    Panels b_panels               # (1, V): then
    Panels WT                     # (P*width, D)
    Panels blocks[2]              # (block, V): logits, then e - s onehot
    void *rows                    # memory for a block as the operand of dx, and of dW, if it is rounded
    void *columns
    Matrix tops                   # (block, L): running maxima; of rows that are done, the largest
    double* sums                  # (block, L): running sums
    double* losses                # (M)
    double* factors               # (M): 1 / (s count), or 0 for a row that is ignored
    Matrix dx                     # (M, D)
    Matrix dW                     # (D + 1, V): dW, and db below it
    void *dW_panels               # (P, D + 1, width) and as much, if it is a sum of many parts
    void *dW_rest
    void* scratch                 # (threads, scratch)


ctypedef struct Call:
    const Loss* s
    const Memory* mem


cdef class LossCache(Workspace):
    """What backward needs of forward, and scratch memory, kept from call to call."""

    cdef Loss sizes               # of the last forward
    cdef object dW                # (D + 1, V), an array: gradient of W, and that of b below it
    cdef void* dW_at              # where its memory is, which `gradient` owns
    cdef bint has_gradient        # that forward succeeded, and was told to compute it
    cdef Buffer x, weights, transposed, block, tops, sums, losses, dx, gradient, panels, rest
    cdef Buffer scratch, x_operand, rows, columns     # the last three of rounded products

    def __cinit__(self):
        self.x_operand, self.rows, self.columns = Buffer(), Buffer(), Buffer()
        self.x, self.weights, self.transposed = Buffer(), Buffer(), Buffer()
        self.block, self.tops, self.sums = Buffer(), Buffer(), Buffer()
        self.losses, self.dx, self.panels = Buffer(), Buffer(), Buffer()
        self.gradient = Buffer()
        self.rest, self.scratch = Buffer(), Buffer()


def affine_loss_forward(
    x, W, b, targets, ignore_label, *, need_gradient=True, cache=None, precision=None,
):
    """Loss of x W + b. See `rnnfast.reference.ops.affine_loss_forward` for the contract."""
    cdef LossCache own = cache
    x = np.ascontiguousarray(x)
    count = int(np.count_nonzero(targets != ignore_label))
    if own is None or not own.take():
        own = LossCache()
        own.take()
    try:
        total = _run_forward(own, x, W, b, targets, ignore_label, count, need_gradient, precision)
        results = total, count, own
        own.has_gradient = need_gradient
    finally:
        own.leave()
    return results


def affine_loss_backward(cache, scale, dW, db):
    """Its gradients. See `rnnfast.reference.ops.affine_loss_backward` for the contract."""
    cdef LossCache own = cache
    if not own.take():
        raise RuntimeError(
            "backward: another thread is calling this layer; give every thread a layer of its own"
        )
    try:
        if not (own.has_gradient and own.sizes.simd.number == dW.itemsize
                and (own.sizes.D, own.sizes.V) == dW.shape and db.shape == dW.shape[1:]):
            raise RuntimeError(
                f"backward: expected a forward call before it, for weights of shape {dW.shape} "
                f"and dtype {dW.dtype}, that was told to compute gradients; call forward first"
            )
        dx = np.empty((own.sizes.M, own.sizes.D), dW.dtype)
        _copy(own, dx.reshape(-1))
        if scale != 1:
            dx *= scale
        # all at once, or some columns, of which source and target stay in a cache in any order
        step = dW.shape[1] if dW.flags.c_contiguous else COLUMNS
        for v in range(0, dW.shape[1], step):
            _scale(own.dW[: own.sizes.D, v : v + step], scale, dW[:, v : v + step])
        _scale(own.dW[own.sizes.D], scale, db)
    finally:
        own.leave()
    return dx


def _scale(gradient, scale, out):
    """Write a gradient times a number: one pass, since a large one comes from memory."""
    if scale == 1:
        out[...] = gradient
    else:
        np.multiply(gradient, scale, out)


def _run_forward(
    LossCache cache,
    const real[:, ::1] x,         # IN (M, D)
    const real[:, :] W,           # IN (D, V)
    const real[:] b,              # IN (V)
    const int64_t[::1] targets,   # IN (M)
    int64_t ignore_label,
    Py_ssize_t count,
    bint need_gradient,
    precision,
):
    """The sum of the losses; gradients of their mean are left in the cache."""
    cdef Py_ssize_t number = sizeof(real), m, n_blocks, numbers
    cdef unsigned char[::1] memory
    cdef Loss s
    cdef Memory mem
    cdef char* at
    check_shapes(W.shape[0] == x.shape[1] and W.shape[1] == b.shape[0])
    mem.dW_panels = mem.dW_rest = mem.scratch = mem.rows = mem.columns = NULL
    mem.dW, s.scratch = Matrix(NULL, 0, 1), 0
    s.simd = with_precision(simd_of(&b[0]), precision)
    s.M, s.D, s.V, s.L = x.shape[0], x.shape[1], W.shape[1], s.simd.lanes
    s.width = 4 * s.L
    s.columns, s.inputs = columns_of(1, s.V, s.L), columns_of(1, s.D, s.L)
    s.ignore_label, s.factor, s.need_gradient = ignore_label, 1.0 / max(count, 1), need_gradient
    s.threads = threads_for(6.0 * s.M * s.D * s.V)
    # blocks of equal size, so that no thread waits for a small last one
    cdef Py_ssize_t P = s.columns.panels, x_row = padded(s.D + 1, number)
    n_blocks = (s.M * P * s.width * number + BLOCK_BYTES - 1) // BLOCK_BYTES
    s.block = min(s.M, ((s.M + n_blocks - 1) // n_blocks + ROWS - 1) // ROWS * ROWS)

    mem.given_x, mem.W, mem.b = Matrix(<void*> &x[0, 0], s.D, 1), matrix_of(W), row_of(b)
    mem.targets = &targets[0]
    mem.x = Matrix(cache.x.reserve(s.M * x_row, number), x_row, 1)
    mem.W_panels = panels_at(
        s.simd, cache.weights.reserve(P * (s.D + 1) * s.width, number), s.D + 1)
    # two blocks where there are more threads: nobody need wait for the readers of the block before
    numbers = P * s.block * s.width
    mem.blocks[0] = panels_at(
        s.simd, cache.block.reserve(min(s.threads, 2) * numbers, number), s.block)
    mem.blocks[1] = panels_at(
        s.simd, moved(s.simd, mem.blocks[0].at, numbers if s.threads > 1 else 0), s.block)
    if s.simd.rounds:
        mem.x_operand = Matrix(cache.x_operand.reserve(s.block * x_row, number), x_row, 1)
        mem.b_panels = from_row(s.simd, mem.W_panels, s.D, 0)
        mem.b_panels.row = 0
        if need_gradient:
            mem.rows = cache.rows.reserve(numbers // s.simd.products.together, number)
            mem.columns = cache.columns.reserve(P * words(s.simd, s.block) * s.width, number)
    mem.tops = Matrix(cache.tops.reserve(s.block * (s.L + 1), number), s.L, 1)
    mem.sums = <double*> cache.sums.reserve(s.block * s.L, sizeof(double))
    mem.losses = <double*> cache.losses.reserve(2 * s.M, sizeof(double))
    mem.factors = mem.losses + s.M
    if need_gradient:
        mem.WT = panels_at(
            s.simd, cache.transposed.reserve(s.inputs.panels * P * s.width * s.width, number),
            P * s.width)
        at = cache.dx._data
        mem.dx = Matrix(cache.dx.reserve(s.M * s.D, number), s.D, 1)
        cache.has_gradient = cache.has_gradient and cache.dx._data == at
        numbers = padded(s.V, number)
        mem.dW = Matrix(cache.gradient.reserve((s.D + 1) * numbers, number), numbers, 1)
        if (cache.dW is None or mem.dW.at != cache.dW_at or cache.dW.itemsize != number
                or cache.dW.shape != (s.D + 1, s.V)):
            cache.has_gradient = False
            # not np.asarray of a memoryview, which is a copy where there is no memory for a view
            memory = cache.gradient._owner
            dtype = np.float32 if number == sizeof(float) else np.float64
            cache.dW = np.ndarray(
                (s.D + 1, s.V), dtype, cache.gradient._owner,
                <unsigned char*> mem.dW.at - &memory[0], (numbers * number, number))
            cache.dW_at = mem.dW.at
        numbers = rest_of(n_blocks, s.block, P * (s.D + 1) * s.width)
        if numbers:
            mem.dW_panels, mem.dW_rest = (
                cache.panels.reserve(numbers, number), cache.rest.zeroed(numbers, number))
        s.scratch = gradient_scratch(s.simd, s.D + 1, s.block)
        mem.scratch = cache.scratch.reserve(s.threads * s.scratch, number)
    cache.has_gradient = False    # up to here an error leaves what the forward before has made
    cdef Call call = Call(&s, &mem)
    with nogil:
        run(_task, &call, s.threads)
    cache.sizes = s
    cdef double total = 0
    for m in range(s.M):
        total += mem.losses[m]
    return total


cdef void _task(const void* call, int thread, int threads) noexcept nogil:
    """The share of one thread: rows of a block, and panels of dW, or rows where they are few."""
    cdef const Loss* s = (<const Call*> call).s
    cdef const Memory* mem = (<const Call*> call).mem
    cdef Py_ssize_t P = s.columns.panels, m, r, rows, r0, r1, number = 0
    cdef Py_ssize_t p0 = part(P, 1, thread, threads), p1 = part(P, 1, thread + 1, threads)
    cdef Py_ssize_t d0 = 0, d1 = s.D + 1, place
    cdef void* scratch = moved(s.simd, mem.scratch, thread * s.scratch)
    cdef Sums dW
    cdef Panels block, operand
    pack_operand(s.simd, mem.W, s.D, s.columns, p0, p1, mem.W_panels)
    pack(s.simd, mem.b, 1, s.columns, p0, p1, from_row(s.simd, mem.W_panels, s.D, 0))
    if s.need_gradient:
        pack_transposed(s.simd, mem.W, s.D, s.columns, part(s.inputs.panels, 1, thread, threads),
                        part(s.inputs.panels, 1, thread + 1, threads), mem.WT)
    barrier(threads)
    if P < PANELS_WORTH * threads:
        p0, p1 = 0, P
        d0, d1 = part(d1, ROWS, thread, threads), part(d1, ROWS, thread + 1, threads)
    place = p0 * (s.D + 1) * s.width
    dW = sums_of(s.simd, columns_of(1, min(p1 * s.width, s.V) - p0 * s.width, s.L),
                 Matrix(moved(s.simd, mem.dW.at, p0 * s.width), mem.dW.row, 1),
                 moved(s.simd, mem.dW_panels, place),
                 NULL if mem.dW_rest == NULL else moved(s.simd, mem.dW_rest, place), s.D + 1)
    m = 0
    while m < s.M:
        rows = min(s.block, s.M - m)
        block = mem.blocks[number % 2]
        r0, r1 = part(rows, ROWS, thread, threads), part(rows, ROWS, thread + 1, threads)
        if r0 < r1:
            _rows(s, mem, block, m, r0, r1)
            if s.need_gradient:
                operand = panels_as_rows(s.simd, block, mem.rows, s.block)
                round_panel_rows(s.simd, r0, r1, 0, P, s.columns, block, operand)
                product(s.simd, r1 - r0, s.D, s.V,
                        across(from_row(s.simd, operand, r0, 0)), mem.WT, zeros(),
                        rows_in_panels(s.simd, moved(s.simd, mem.dx.at, (m + r0) * s.D), s.D))
                for r in range(m + r0, m + r1):
                    s.simd.scale(s.D, mem.factors[r], moved(s.simd, mem.dx.at, r * s.D))
        barrier(threads)
        operand = panels_as_operand(s.simd, block, mem.columns, s.block)
        if s.need_gradient and s.simd.rounds:
            round_panels(s.simd, rows, part(P, 1, thread, threads), part(P, 1, thread + 1, threads),
                         block, operand)
            barrier(threads)
        if s.need_gradient and p0 < p1:
            _gradient(s, d0, d1, rows, Matrix(moved(s.simd, mem.x.at, m * mem.x.row), mem.x.row, 1),
                      from_row(s.simd, block, 0, p0), from_row(s.simd, operand, 0, p0), dW, scratch)
        dW.begun = True
        number += 1
        m += rows
    if s.need_gradient and p0 < p1:
        settle(s.simd, d0, d1, dW)


cdef void _gradient(
    const Loss* s, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t rows, Matrix x, Panels block,
    Panels operand, Sums dW, void* scratch,
) noexcept nogil:
    """Rows begin ... end - 1 of dW = x^T block; the last one is that of b, of which nothing is rounded."""
    cdef Py_ssize_t last = min(end, s.D) if s.simd.rounds else end
    gradient(s.simd, begin, last, rows, x, operand, dW, scratch)
    gradient(s.simd.exact, max(begin, last), end, rows, x, block, dW, scratch)


cdef void _rows(
    const Loss* s, const Memory* mem, Panels block, Py_ssize_t m, Py_ssize_t r0, Py_ssize_t r1,
) noexcept nogil:
    """Rows r0 ... r1 - 1 of the block that begins at row m: logits, then e - s onehot.

    loss = log(s) + largest - logit of the target
    """
    cdef Py_ssize_t p, r, j, columns, P = s.columns.panels, rows = r1 - r0
    cdef void* x = moved(s.simd, mem.x.at, (m + r0) * mem.x.row)
    cdef void* tops = moved(s.simd, mem.tops.at, r0 * s.L)
    cdef void* largest = moved(s.simd, mem.tops.at, s.block * s.L + r0)
    cdef double* sums = mem.sums + r0 * s.L
    cdef void *row
    cdef void *target
    cdef double top, total
    for r in range(rows):
        row = moved(s.simd, x, r * mem.x.row)
        memcpy(row, moved(s.simd, mem.given_x.at, (m + r0 + r) * s.D), s.D * s.simd.number)
        s.simd.fill(1, 1, moved(s.simd, row, s.D))
    round_rows(s.simd, r0, r1, s.D, below(s.simd, mem.x, m), mem.x_operand)
    s.simd.fill(rows * s.L, -INFINITY, tops)
    memset(sums, 0, rows * s.L * sizeof(double))
    for p in range(P):
        columns = min(s.width, s.V - p * s.width)
        if s.simd.rounds:
            product(s.simd, rows, columns, s.D,
                    rows_of(below(s.simd, mem.x_operand, r0).at, mem.x_operand.row),
                    from_row(s.simd, mem.W_panels, 0, p), from_row(s.simd, mem.b_panels, 0, p),
                    from_row(s.simd, block, r0, p))
        else:
            product(s.simd, rows, columns, s.D + 1, rows_of(x, mem.x.row),
                    from_row(s.simd, mem.W_panels, 0, p), zeros(), from_row(s.simd, block, r0, p))
        s.simd.panel_top(rows, columns, from_row(s.simd, block, r0, p).at, tops)
    for r in range(rows):
        top = s.simd.largest(s.L, moved(s.simd, tops, r * s.L))
        s.simd.fill(1, top, moved(s.simd, largest, r))
        mem.losses[m + r0 + r] = 0
        if mem.targets[m + r0 + r] != s.ignore_label:
            mem.losses[m + r0 + r] = top - s.simd.value(
                _at(s, block, r0 + r, mem.targets[m + r0 + r]))
    for p in range(P):
        s.simd.panel_exp(rows, min(s.width, s.V - p * s.width),
                         from_row(s.simd, block, r0, p).at, largest, sums)
    for r in range(rows):
        total = 0
        for j in range(s.L):
            total += sums[r * s.L + j]
        mem.factors[m + r0 + r] = 0
        if mem.targets[m + r0 + r] == s.ignore_label:
            # 0 times what is not finite would not be 0
            for p in range(P):
                s.simd.fill(min(s.width, s.V - p * s.width), 0,
                            from_row(s.simd, block, r0 + r, p).at)
        else:
            mem.factors[m + r0 + r] = s.factor / total
            mem.losses[m + r0 + r] += log(total)
            target = _at(s, block, r0 + r, mem.targets[m + r0 + r])
            s.simd.fill(1, s.simd.value(target) - total, target)
        s.simd.scale(s.D + 1, mem.factors[m + r0 + r], moved(s.simd, x, r * mem.x.row))


cdef inline void* _at(const Loss* s, Panels block, Py_ssize_t r, Py_ssize_t v) noexcept nogil:
    """Column v of row r of a block."""
    return moved(s.simd, from_row(s.simd, block, r, v // s.width).at, v % s.width)


def _copy(LossCache cache, real[::1] dx):
    """The gradient of x that forward left in the cache."""
    memcpy(&dx[0], cache.dx.reserve(0, sizeof(real)), dx.shape[0] * sizeof(real))
