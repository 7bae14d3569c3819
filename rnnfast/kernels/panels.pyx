"""Matrices in panels of W = 4 L columns (L being the lanes of a vector), one after the other.

That is how a product reads its second matrix and leaves its result: CONTRIBUTING.md draws it.
"""

from .engine cimport Matrix, Panels, Simd, below, moved

cdef enum:
    PANEL_BYTES = 16384           # of as many rows of a panel as it has columns, 64 at most


cdef Columns columns_of(Py_ssize_t gates, Py_ssize_t H, Py_ssize_t lanes) noexcept nogil:
    cdef Columns columns
    columns.H, columns.gates, columns.lanes = H, gates, lanes
    columns.units = 4 // gates * lanes
    columns.panels = (H + columns.units - 1) // columns.units
    columns.used = gates * H
    return columns


cdef void pack(
    const Simd* simd,
    Matrix W,                     # IN (K, G * H)
    Py_ssize_t K,
    Columns columns,
    Py_ssize_t first,             # panels first ... last - 1
    Py_ssize_t last,
    Panels B,                     # OUT (K, columns)
) noexcept nogil:
    """The columns of W in panels; columns beyond the last are 0."""
    cdef Py_ssize_t p, g, u, n, L = columns.lanes, vector = vectors_apart(columns)
    for p in range(first, last):
        n = units_of(columns, p)
        if vector > 0 and columns.gates * n == 4 * L:
            simd.pack(K, 4, 4 * L, moved(simd, W.at, p * columns.units * W.column), W.row, W.column,
                      vector * W.column, moved(simd, B.at, p * B.panel))
            continue
        for g in range(columns.gates):
            u = 0
            while u < columns.units:
                # what is written beyond n units is 0, and the next gate goes on top of it
                simd.pack(K, 1, clipped(n - u, L),
                          moved(simd, W.at, (g * columns.H + p * columns.units + u) * W.column),
                          W.row, W.column, 0, moved(simd, B.at, p * B.panel + g * n + u))
                u += L


cdef void pack_operand(
    const Simd* simd, Matrix W, Py_ssize_t K, Columns columns, Py_ssize_t first, Py_ssize_t last,
    Panels B,
) noexcept nogil:
    """The same as the second operand of a product."""
    cdef Py_ssize_t p, k, n, W_p = 4 * columns.lanes
    cdef char rows[PANEL_BYTES]   # some at a time, which are rounded while they are in a cache
    if not simd.rounds:
        pack(simd, W, K, columns, first, last, B)
        return
    for p in range(first, last):
        k = 0
        while k < K:
            n = min(W_p, K - k)
            pack(simd, below(simd, W, k), n, columns, p, p + 1, Panels(&rows[0], W_p, 0, 0))
            simd.products.panel_words(n, &rows[0],
                             moved(simd, B.at, p * B.panel + k // simd.products.together * W_p))
            k += n


cdef void pack_transposed(
    const Simd* simd,
    Matrix W,                     # IN (n_rows, G * H)
    Py_ssize_t n_rows,
    Columns columns,
    Py_ssize_t first,             # panels of n_rows: first ... last - 1
    Py_ssize_t last,
    Panels B,                     # OUT (P * W, n_rows)
) noexcept nogil:
    """The transpose of W as the second operand of a product, whose rows are the columns of W in the
    order in which panels hold them; of the P * W rows of a panel, only those used are written."""
    cdef Py_ssize_t p, g, q, W_p = 4 * columns.lanes
    cdef char rows[PANEL_BYTES]   # of one panel of W, which are rounded while they are in a cache
    cdef void* at
    for q in range(first, last):
        at = moved(simd, B.at, q * B.panel)
        if simd.rounds:
            for p in range(columns.panels):
                for g in range(columns.gates):
                    _pack_gate(simd, W, n_rows, columns, g, p, q, &rows[0])
                simd.products.panel_words(columns.gates * units_of(columns, p), &rows[0],
                                 moved(simd, at, p * W_p // simd.products.together * W_p))
            continue
        for g in range(columns.gates):
            for p in range(columns.panels):  # innermost, since it walks along rows of W
                _pack_gate(simd, W, n_rows, columns, g, p, q, moved(simd, at, p * W_p * W_p))


cdef inline void _pack_gate(
    const Simd* simd, Matrix W, Py_ssize_t n_rows, Columns columns, Py_ssize_t g, Py_ssize_t p,
    Py_ssize_t q, void* rows,
) noexcept nogil:
    """Gate g of panel p, in rows of panel q of the transpose."""
    cdef Py_ssize_t L = columns.lanes, W_p = 4 * L, n = units_of(columns, p), u = 0
    while u < n:
        simd.pack(min(L, n - u), 4, clipped(n_rows - q * W_p, W_p),
                  moved(simd, W.at, q * W_p * W.row + W.column
                        * (g * columns.H + p * columns.units + u)),
                  W.column, W.row, L * W.row, moved(simd, rows, (g * n + u) * W_p))
        u += L


cdef void unpack(
    const Simd* simd,
    Py_ssize_t begin,             # rows begin ... end - 1
    Py_ssize_t end,
    Columns columns,
    Py_ssize_t first,             # panels first ... P - 1
    Panels B,                     # IN (K, columns), panel `first` and those behind it
    Matrix out,                   # OUT (end - begin, G * H)
) noexcept nogil:
    """Columns from panels: what `pack` has done, undone."""
    cdef Py_ssize_t p, g, u, n, L = columns.lanes
    for p in range(first, columns.panels):
        n = units_of(columns, p)
        for g in range(columns.gates):
            u = 0
            while u < n:
                simd.unpack(end - begin, min(L, n - u),
                            moved(simd, from_row(simd, B, begin, p - first).at, g * n + u),
                            moved(simd, out.at, (g * columns.H + p * columns.units + u)
                                  * out.column), out.row, out.column)
                u += L


cdef inline Py_ssize_t clipped(Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    return max(0, min(n, most))
