"""Gradients of weights, and how their rounding errors are kept small.

A gradient is a sum over rows, A^T B, which may be millions, and rounding errors must not grow with
them. So registers hold the sums of PART rows, or of twice as many of rounded operands, which are
multiplied in the same time, and these are added up: all of them where the rows
are few, else those of SUM_ROWS, whose sums are added exactly, what is lost by rounding going into
`rest`. Where a part begins does not depend on threads.
"""

import numpy as np

from .engine cimport (
    ROWS, Buffer, Matrix, Panels, Simd, Walk, below, matrix_of, moved, real, simd_of, with_precision,
    words, zeros,
)
from .panels cimport (
    Columns, columns_of, computed, from_row, pack, panels_at, unpack, vectors_apart,
)
from .products cimport A_BLOCK, even, in_tiles, round_panels, rows_of_block, tile_height

# The parts of a sum.
cdef enum:
    PART = 128
    SUM_ROWS = 1024
    FEW_PARTS = 64
    PARTS = 4 * ROWS              # panels of memory for them, one row each


cdef Sums sums_of(
    const Simd* simd,
    Columns columns,
    Matrix out,                   # OUT (M, G * H)
    void* memory,                 # of P * M * W numbers
    void* rest,                   # of as many, all 0, or NULL: see rest_of
    Py_ssize_t M,
) noexcept nogil:
    """A gradient that has not begun. It is summed in its place where that has whole vectors for
    every gate, and in panels elsewhere."""
    cdef Sums dW
    dW.columns, dW.out, dW.panels = columns, out, panels_at(simd, memory, M)
    dW.rest, dW.begun, dW.in_place = rest, False, 0
    if rest == NULL and out.column == 1 and vectors_apart(columns) > 0:
        # the last panel of one gate is a whole one, or its columns stand side by side
        dW.in_place = columns.panels if columns.gates == 1 else columns.H // columns.units
    return dW


cdef void gradient(
    const Simd* simd,
    Py_ssize_t begin,             # rows begin ... end - 1 of dW
    Py_ssize_t end,
    Py_ssize_t K,
    Matrix A,                     # IN (K, M), rows contiguous
    Panels B,                     # IN (K, G*H), as an operand, rows one after the other
    Sums dW,                      # INOUT (M, G*H)
    void* scratch,                # of gradient_scratch(M, K) numbers
) noexcept nogil:
    """dW = A^T B, or that is added to dW where it has begun. B, the gradients of what the weight
    was used for, has been written in panels already. A is packed, tile by tile: else every number
    of it would come from a cache line, and often a page, of its own."""
    cdef Py_ssize_t W = 4 * simd.lanes, columns = computed(dW.columns)
    cdef Py_ssize_t m, k, p, rows, K_k, K_most = even(K, SUM_ROWS, PART)
    cdef Py_ssize_t M_most = rows_of_block(simd, end - begin, words(simd, K))
    # scratch: [parts: PARTS rows | block: M_most rows | tiles of A]
    cdef Panels parts = Panels(scratch, 4 * W, W, simd.lanes), place, sums, whole
    cdef Panels block = panels_at(simd, moved(simd, scratch, PARTS * W), M_most)
    cdef void* memory = moved(simd, block.at, M_most * W)
    cdef Walk tiles
    cdef bint add
    if dW.out.at == NULL:
        return
    # the next panel of an LSTM begins at its next L units, where its gates are H apart
    place.row, place.panel, place.vector = dW.out.row, dW.columns.units, vectors_apart(dW.columns)
    m = begin
    while m < end:
        rows = min(M_most, end - m)
        k = 0
        while k < K:
            K_k = min(K_most, K - k)
            tiles = in_tiles(memory, words(simd, K_k), tile_height(simd, rows))
            simd.products.pack_tiles(K_k, rows, tiles.k_stride, moved(simd, A.at, k * A.row + m), A.row,
                            memory)
            add = k > 0 or dW.begun
            if dW.in_place > 0:
                place.at = moved(simd, dW.out.at, m * dW.out.row)
                _add_parts(simd, rows, min(dW.in_place * W, dW.columns.used), K_k, tiles,
                           from_row(simd, B, k // simd.products.together, 0), parts, place, add)
            for p in range(dW.in_place, dW.columns.panels):
                sums = from_row(simd, dW.panels, m, p - dW.in_place)
                whole = sums
                if add and dW.rest != NULL:
                    whole = block
                _add_parts(simd, rows, min(W, columns - p * W), K_k, tiles,
                           from_row(simd, B, k // simd.products.together, p), parts, whole,
                           add and dW.rest == NULL)
                if add and dW.rest != NULL:
                    simd.add_exactly(rows * W, whole.at, sums.at,
                                     moved(simd, dW.rest, m * W + p * dW.panels.panel))
            k += K_k
        m += rows


cdef void _add_parts(
    const Simd* simd,
    Py_ssize_t M,
    Py_ssize_t columns,
    Py_ssize_t K,
    Walk A,                       # IN (M, K), packed for its tiles
    Panels B,                     # IN (K, columns)
    Panels parts,                 # scratch memory, of a tile
    Panels C,                     # INOUT (M, columns)
    bint add,
) noexcept nogil:
    """C = A B, or that is added to C; sums of PART terms, or twice as many, are added up tile by tile."""
    cdef Py_ssize_t W = 4 * simd.lanes, panels = (columns + W - 1) // W
    cdef Py_ssize_t part = 2 * PART if simd.rounds else PART
    cdef Py_ssize_t m, k, p, rows, K_k, used, whole, height = tile_height(simd, M)
    cdef Py_ssize_t at_once = simd.products.panels_at_once(height)
    cdef bint touches_C
    cdef Panels b, c, nothing = zeros()
    cdef const Panels* plus
    cdef Walk a = A
    p = 0
    while p < panels:
        # C may end within a vector, `parts` does not
        used = min(at_once * W, columns - p * W)
        whole = (used + simd.lanes - 1) // simd.lanes * simd.lanes
        m = 0
        while m < M:
            rows = min(height, M - m)
            c = from_row(simd, C, m, p)
            plus = &c if add else NULL
            k = 0
            while k < K:
                K_k = min(part, K - k)
                a.at = moved(simd, A.at, m * A.tile + k // simd.products.together * A.k_stride)
                b = from_row(simd, B, k // simd.products.together, p)
                k += K_k
                touches_C = k == K or plus == &c
                simd.products.tile(rows, used if touches_C else whole, K_k, &a, &b, &nothing, plus,
                          &c if k == K else &parts)
                plus = &parts
            m += rows
        p += at_once


cdef void settle(
    const Simd* simd, Py_ssize_t begin, Py_ssize_t end, Sums dW,
) noexcept nogil:
    """Rows begin ... end - 1 of a gradient, whose parts are all there, in their place."""
    cdef Py_ssize_t p, place, panels = dW.columns.panels - dW.in_place
    if dW.out.at == NULL:
        return
    if dW.rest != NULL:
        for p in range(panels):
            place = begin * dW.panels.row + p * dW.panels.panel
            simd.add((end - begin) * dW.panels.row, moved(simd, dW.rest, place),
                     moved(simd, dW.panels.at, place))
    unpack(simd, begin, end, dW.columns, dW.in_place, dW.panels, below(simd, dW.out, begin))


cdef Py_ssize_t gradient_scratch(const Simd* simd, Py_ssize_t M, Py_ssize_t K) noexcept nogil:
    """Numbers of scratch memory for gradients of up to M rows that are sums of up to K terms."""
    cdef Py_ssize_t rows = (M + ROWS - 1) // ROWS * ROWS, W = 4 * simd.lanes, K_k = min(K, SUM_ROWS)
    # the last tile of a block may have room for more rows than there are
    cdef Py_ssize_t numbers = (min(rows * K_k, A_BLOCK // simd.number)
                               + (simd.tile_rows - 1) * K_k)
    # whole cache lines, so that the memory of the next thread is aligned too
    return PARTS * W + rows * W + (numbers + W - 1) // W * W


cdef Py_ssize_t rest_of(Py_ssize_t calls, Py_ssize_t K, Py_ssize_t numbers) noexcept nogil:
    """Numbers of memory for the rest of a gradient that takes so many calls of up to K rows: as
    many as it has itself where these are many parts, else 0."""
    return numbers if calls * ((K + PART - 1) // PART) > FEW_PARTS else 0


# ---------------------------------------------------------------- for tests

def product_of_columns(
    const real[:, ::1] A, const real[:, :] B, Py_ssize_t tile_rows, precision=None,
):
    """A^T B, summed as the gradient of a weight, in tiles of up to `tile_rows` rows."""
    cdef Py_ssize_t K = A.shape[0], M = A.shape[1], n = B.shape[1], number = sizeof(real)
    cdef Simd simd = with_precision(simd_of(&A[0, 0]), precision)[0]
    simd.tile_rows = min(tile_rows, simd.tile_rows)
    cdef Columns columns = columns_of(1, n, simd.lanes)
    cdef Py_ssize_t W = 4 * simd.lanes, numbers = columns.panels * M * W
    cdef Py_ssize_t of_rest = rest_of(1, K, numbers)
    cdef Buffer packed = Buffer(), memory = Buffer(), rest = Buffer(), scratch = Buffer()
    cdef Panels B_p = panels_at(&simd, packed.reserve(columns.panels * K * W, number), K)
    cdef void* memory_of_scratch = scratch.reserve(gradient_scratch(&simd, M, K), number)
    out = np.empty((M, n), A.base.dtype)
    cdef real[:, ::1] C = out
    cdef void* memory_of_out = memory.reserve(numbers, number)
    cdef void* memory_of_rest = rest.zeroed(of_rest, number) if of_rest else NULL
    cdef Sums sums = sums_of(&simd, columns, Matrix(&C[0, 0], n, 1), memory_of_out,
                             memory_of_rest, M)
    with nogil:
        pack(&simd, matrix_of(B), K, columns, 0, columns.panels, B_p)
        round_panels(&simd, K, 0, columns.panels, B_p, B_p)
        gradient(&simd, 0, M, K, Matrix(<void*> &A[0, 0], M, 1), B_p, sums, memory_of_scratch)
        settle(&simd, 0, M, sums)
    return out
