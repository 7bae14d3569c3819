"""Products: C = init + A B, of which everything in the library is made.

B is packed into panels, so that the tile (simd/tile.h) reads it as one stream; where A has few
rows, B is read where it stands. What is here cuts a product into tiles that stay in the caches;
nothing here depends on how many threads there are, and neither do results.
"""

import numpy as np

from libc.string cimport memcpy, memset

from .engine cimport (
    ALIGNMENT, Buffer, Matrix, Panels, Simd, View, Walk, matrix_of, moved, real, simd_of, view_of,
    with_precision, words, zeros,
)
from .panels cimport (
    Columns, columns_of, computed, from_row, pack, pack_operand, panels_at, rows_in_panels, units_of,
    unpack, vectors_apart,
)

# Where weights are read where they stand: blocks of K, so that the next rows of A find a panel in
# the first-level cache; how far apart rows are that fall into the same few places of it (bytes);
# how large a matrix is that one row is best multiplied with in long pieces, and how long its rows
# are at most, for else C would fall out of that cache (bytes); how many terms for each row make up
# for adding up the lanes of a sum.
cdef enum:
    SHORT_K_BLOCK = 64
    ALIASES = 4096
    LARGE = 524288
    LONG = 16384
    TERMS_WORTH = 10

cdef Py_ssize_t LONGEST = <Py_ssize_t> 1 << (8 * sizeof(Py_ssize_t) - 2)


# ---------------------------------------------------------------- how rows are read

cdef Walk rows_of(const void* at, Py_ssize_t row) noexcept nogil:
    """A is a matrix of contiguous rows, `row` apart."""
    return Walk(at, row, row, 1, LONGEST, 0)


cdef Walk across(Panels panels) noexcept nogil:
    """A is a matrix in packed panels."""
    return Walk(panels.at, panels.row, panels.row, 1, panels.row, panels.panel)


cdef Walk in_tiles(const void* at, Py_ssize_t K, Py_ssize_t height) noexcept nogil:
    """A is packed for its tiles, each of K columns and so many rows."""
    return Walk(at, 1, K, height, LONGEST, 0)


# ---------------------------------------------------------------- products

cdef void product(
    const Simd* simd, Py_ssize_t M, Py_ssize_t columns, Py_ssize_t K, Walk A, Panels B, Panels init,
    Panels C,
) noexcept nogil:
    """C = init + A B"""
    product_plus(simd, M, columns, K, A, B, init, NULL, C)


cdef void product_plus(
    const Simd* simd,
    Py_ssize_t M,
    Py_ssize_t columns,
    Py_ssize_t K,
    Walk A,                       # IN (M, K), in words
    Panels B,                     # IN (K, columns), in words if it is packed
    Panels init,                  # IN (M, columns), of which C may be the memory
    const Panels* plus,           # IN (M, columns) likewise, or NULL
    Panels C,                     # OUT (M, columns)
) noexcept nogil:
    """C = init + A B, and + plus unless that is NULL"""
    cdef Py_ssize_t W = 4 * simd.lanes, panels = (columns + W - 1) // W
    cdef Py_ssize_t m0, m1, m, n, k, p, height, widest, tiles, rows, K_k
    cdef Py_ssize_t t = simd.products.together, word
    cdef Py_ssize_t M_most = rows_of_block(simd, M, words(simd, K))
    cdef Py_ssize_t K_most = even(K, K_BLOCK * t if B.row == W else short_block(simd), W * t)
    cdef Walk a = A
    cdef Panels b, from_, c, more
    cdef const Panels* plus_k
    cdef void* A_k
    m0 = 0
    while m0 < M:
        m1 = min(m0 + M_most, M)
        height = tile_height(simd, m1 - m0)
        widest = simd.products.panels_at_once(height)
        k = 0
        while k < K:
            K_k, word = min(K_most, K - k), k // t
            A_k = moved(simd, A.at, word % A.width * A.k_stride + word // A.width * A.block)
            p = 0
            while p < panels:
                n = min(widest * W, columns - p * W)
                b = from_row(simd, B, k // simd.products.rows_together, p)
                m, tiles = m0, (m1 - m0 + height - 1) // height
                while m < m1:
                    rows = (m1 - m + tiles - 1) // tiles  # dealt out evenly: a low tile is slower
                    tiles -= 1
                    a.at = moved(simd, A_k, m * A.tile)
                    c = from_row(simd, C, m, p)
                    # the next block of k adds to what this one left
                    from_, plus_k = c, NULL
                    if k == 0:
                        from_ = from_row(simd, init, m, p)
                        if plus != NULL:
                            more = from_row(simd, plus[0], m, p)
                            plus_k = &more
                    simd.products.tile(rows, n, K_k, &a, &b, &from_, plus_k, &c)
                    m += rows
                p += widest
            k += K_k
        m0 = m1


cdef inline Py_ssize_t short_block(const Simd* simd) noexcept nogil:
    """Longest block of K where B is not packed: wider vectors need fewer rows of A for it."""
    return max(SHORT_K_BLOCK, 2 * simd.lanes * simd.number)


# ---------------------------------------------------------------- weights for few rows

cdef Weights weights_for(
    const Simd* simd,
    Matrix W,                     # IN (K, G * H)
    Py_ssize_t K,
    Columns columns,
    Py_ssize_t rows,              # that are multiplied with W
) noexcept nogil:
    """W as it is best read. Where the rows are few, packing takes longer than the product: W is read
    where it stands then, by rows or by columns, whichever are contiguous. Otherwise it is `packed`,
    and who calls gives `panels` the memory."""
    cdef Weights B
    cdef Py_ssize_t vector = vectors_apart(columns), lanes = columns.lanes
    cdef bint aliased = W.row * simd.number % ALIASES == 0
    B.W, B.K, B.columns = W, K, columns
    B.by_rows = (W.column == 1 and vector > 0 and (W.row >= lanes or W.row <= -lanes)
                 and rows <= (lanes if aliased else FEW_ROWS))
    B.by_columns = (not B.by_rows and W.row == 1
                    and rows <= FEW_ROWS and K >= max(lanes, TERMS_WORTH * rows))
    B.packed = not (B.by_rows or B.by_columns)
    B.simd = simd if B.packed else simd.standing
    # where a panel of all gates begins at its next units, its gates are H apart
    B.panels = Panels(W.at, W.row, columns.units, vector)
    return B


cdef void pack_weights(const Weights* B, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Panels first ... last - 1, if W is to be packed."""
    if B.packed:
        pack_operand(B.simd, B.W, B.K, B.columns, first, last, B.panels)


cdef void product_with(
    Py_ssize_t M,
    Py_ssize_t columns,           # of panels `first` ...
    Walk A,                       # IN (M, K), in words; rows contiguous unless B is packed
    const Weights* B,             # IN (K, columns)
    Py_ssize_t first,
    Panels init,                  # IN (M, columns), of which C may be the memory
    Panels C,                     # OUT (M, columns), vectors side by side
) noexcept nogil:
    """C = init + A B"""
    cdef const Simd* simd = B.simd
    cdef Py_ssize_t W = 4 * simd.lanes, panels = (columns + W - 1) // W, before = panels
    if B.by_columns:
        _product_by_columns(simd, M, panels, A, B, first, init, C)
        return
    if B.packed:
        product(simd, M, columns, B.K, A, from_row(simd, B.panels, 0, first), init, C)
        return
    if first + panels == B.columns.panels and B.columns.H % simd.lanes > 0:
        before -= 1 if B.columns.gates > 1 else min(
            panels, simd.products.panels_at_once(tile_height(simd, M)))
    cdef Py_ssize_t whole = min(columns, before * W)
    cdef Py_ssize_t length = B.columns.used * simd.number
    if M == 1 and length <= LONG and B.K * length >= LARGE and (
            B.columns.gates > 1 or C.panel == W and init.panel in (0, W)):
        _product_of_one_row(simd, whole // simd.lanes, A, B, first, init, C)
    elif before > 0:
        product(simd, M, whole, B.K, A, from_row(simd, B.panels, 0, first), init, C)
    if before < panels:
        _product_at_the_end(simd, M, columns - before * W, A, B, first + before,
                            from_row(simd, init, 0, before), from_row(simd, C, 0, before))


cdef void _product_of_one_row(
    const Simd* simd, Py_ssize_t vectors, Walk A, const Weights* B, Py_ssize_t first, Panels init,
    Panels C,
) noexcept nogil:
    """The same by rows for one row of A and whole vectors. With one gate, a vector counts as a
    panel."""
    cdef Py_ssize_t gates = B.columns.gates
    cdef Panels b = from_row(simd, B.panels, 0, first)
    if gates == 1:
        init.panel, C.panel = init.vector, C.vector
    simd.products.one_row(gates, vectors // gates, B.K, A.at, &b, &init, &C)


cdef void _product_at_the_end(
    const Simd* simd, Py_ssize_t M, Py_ssize_t columns, Walk A, const Weights* B,
    Py_ssize_t first, Panels init, Panels C,
) noexcept nogil:
    """The same by rows for the last panels, of which the last one ends within a vector. What a
    vector reads beyond the end of a row belongs to the next row, and comes into columns that nobody
    looks at; of the row that stands last in memory, and of one that shares its word, copies are read."""
    cdef char copy[2 * 16 * ALIGNMENT]
    cdef Py_ssize_t W = 4 * simd.lanes, K = B.K, t = simd.products.together, g, r, length = 16 * ALIGNMENT
    cdef Py_ssize_t k = (K - 1) // t * t if B.W.row > 0 else 0  # of the word that is copied
    cdef Py_ssize_t n = B.columns.used - first * W, rows = min(t, K - k)
    cdef Panels rest = from_row(simd, B.panels, 0, first)
    cdef Panels row = Panels(&copy[0], length // simd.number, W, simd.lanes)
    cdef Walk a = A
    memset(&copy[0], 0, sizeof(copy))
    if B.columns.gates > 1:
        # every gate has a vector, and the next one writes over what it computes beyond n units
        n = units_of(B.columns, first)
        columns, C.vector, init.vector = W, n, min(init.vector, n)
    for r in range(rows):
        for g in range(B.columns.gates):
            memcpy(moved(simd, row.at, r * row.row + g * row.vector),
                   moved(simd, rest.at, (k + r) * rest.row + g * rest.vector), n * simd.number)
    if k > 0:
        product(simd, M, columns, k, A, rest, init, C)
        init = C
    a.at = moved(simd, A.at, k // t)
    product(simd, M, columns, rows, a, row, init, C)
    if k == 0 and K > rows:
        a.at = moved(simd, A.at, 1)
        product(simd, M, columns, K - rows, a, from_row(simd, rest, rows, 0), C, C)


cdef void _product_by_columns(
    const Simd* simd, Py_ssize_t M, Py_ssize_t panels, Walk A, const Weights* B,
    Py_ssize_t first, Panels init, Panels C,
) noexcept nogil:
    """The same by columns."""
    cdef Py_ssize_t p, g, n
    cdef Panels c, from_
    for p in range(panels):
        n = units_of(B.columns, first + p)
        for g in range(B.columns.gates):
            c, from_ = from_row(simd, C, 0, p), from_row(simd, init, 0, p)
            c.at = moved(simd, c.at, g * n)
            if init.vector > 0:
                from_.at = moved(simd, from_.at, g * n)
            simd.products.dots(M, n, B.K, &A, moved(simd, B.W.at, B.W.column * (
                g * B.columns.H + (first + p) * B.columns.units)), B.W.column, &from_, &c)


# ---------------------------------------------------------------- for tests

def matmul(const real[:, :] A, const real[:, :] B, precision=None):
    """A B, packed and multiplied as in a layer; A has contiguous rows."""
    cdef Py_ssize_t M = A.shape[0], K = A.shape[1], n = B.shape[1], number = sizeof(real)
    cdef const Simd* simd = with_precision(simd_of(&A[0, 0]), precision)
    cdef Columns columns = columns_of(1, n, simd.lanes)
    cdef Buffer packed = Buffer(), rows = Buffer()
    cdef Py_ssize_t W = 4 * simd.lanes
    cdef Panels B_p = panels_at(simd, packed.reserve(columns.panels * K * W, number), K)
    cdef Matrix given = Matrix(<void*> &A[0, 0], A.strides[0] // number, 1)
    cdef Matrix operand = rows_as_operand(simd, given, rows.reserve(M * K, number), K)
    out = np.empty((M, n), A.base.dtype)
    cdef real[:, ::1] C = out
    with nogil:
        round_rows(simd, 0, M, K, given, operand)
        pack_operand(simd, matrix_of(B), K, columns, 0, columns.panels, B_p)
        product(simd, M, n, K, rows_of(operand.at, operand.row), B_p, zeros(),
                rows_in_panels(simd, &C[0, 0], n))
    return out


def multiply(A, W, init, Py_ssize_t gates, Py_ssize_t rows, precision=None):
    """How W is read for so many rows, and init + A W, computed panel by panel."""
    out = np.empty(init.shape, W.dtype)
    cdef View a = view_of(A), w = view_of(W), from_ = view_of(init), to = view_of(out, True)
    cdef const Simd* simd = with_precision(w.simd, precision)
    cdef Py_ssize_t width = 4 * simd.lanes, p
    cdef Columns columns = columns_of(gates, w.columns // gates, simd.lanes)
    cdef Weights B = weights_for(simd, w.matrix, w.rows, columns, rows)
    cdef Buffer packed = Buffer(), memory = Buffer(), operand = Buffer()
    cdef Matrix rows_of_A = rows_as_operand(
        B.simd, a.matrix, operand.reserve(a.rows * w.rows, simd.number), w.rows)
    cdef Panels C = panels_at(
        simd, memory.reserve(columns.panels * a.rows * width, simd.number), a.rows), c
    if B.packed:
        B.panels = panels_at(
            simd, packed.reserve(columns.panels * w.rows * width, simd.number), w.rows)
    with nogil:
        round_rows(B.simd, 0, a.rows, w.rows, a.matrix, rows_of_A)
        pack_weights(&B, 0, columns.panels)
        pack(simd, from_.matrix, a.rows, columns, 0, columns.panels, C)
        for p in range(columns.panels):
            c = from_row(simd, C, 0, p)
            product_with(a.rows, min(width, computed(columns) - p * width),
                         rows_of(rows_of_A.at, rows_of_A.row), &B, p, c, c)
        unpack(simd, 0, a.rows, columns, 0, C, to.matrix)
    return "packed" if B.packed else "rows" if B.by_rows else "columns", out
