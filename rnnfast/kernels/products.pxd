"""Products of rows with a matrix in panels, and with weights as they are best read."""

from .engine cimport Matrix, Panels, ROWS, Simd, Walk, moved, words
from .panels cimport Columns, from_row

# Blocks of a product: a panel of B of up to K_BLOCK rows (272 kB) and the rows of A that meet it
# (A_BLOCK bytes) stay in the second-level cache together. Every block of K reads and writes C once
# more, every block of rows reads B once more: so they are as long as that allows.
cdef enum:
    K_BLOCK = 1088
    A_BLOCK = 655360

# Rows for which packing weights takes longer than it saves.
cdef enum:
    FEW_ROWS = 48

# A matrix that rows are multiplied with, packed or read where it stands: see `weights_for`.
ctypedef struct Weights:
    const Simd* simd              # of products with it, and of their other operand
    Matrix W                      # (K, G*H): of the caller
    Py_ssize_t K
    Columns columns
    bint packed, by_rows, by_columns  # one of them
    Panels panels                 # memory for what is packed, or where W stands

cdef Walk rows_of(const void* at, Py_ssize_t row) noexcept nogil
cdef Walk across(Panels panels) noexcept nogil
cdef Walk in_tiles(const void* at, Py_ssize_t K, Py_ssize_t height) noexcept nogil
cdef void product(const Simd* simd, Py_ssize_t M, Py_ssize_t columns, Py_ssize_t K, Walk A,
                  Panels B, Panels init, Panels C) noexcept nogil
cdef void product_plus(const Simd* simd, Py_ssize_t M, Py_ssize_t columns, Py_ssize_t K, Walk A,
                       Panels B, Panels init, const Panels* plus, Panels C) noexcept nogil
cdef Weights weights_for(const Simd* simd, Matrix W, Py_ssize_t K, Columns columns,
                         Py_ssize_t rows) noexcept nogil
cdef void pack_weights(const Weights* B, Py_ssize_t first, Py_ssize_t last) noexcept nogil
cdef void product_with(Py_ssize_t M, Py_ssize_t columns, Walk A, const Weights* B, Py_ssize_t first,
                       Panels init, Panels C) noexcept nogil


# ---------------------------------------------------------------- operands that are rounded
#
# Those of exact products are the arrays themselves; rounded ones are copies, in words (simd/operands.h).

cdef inline Matrix rows_as_operand(
    const Simd* simd, Matrix A, void* memory, Py_ssize_t row,
) noexcept nogil:
    """Where rows of A stand as the first operand."""
    return Matrix(memory, row, 1) if simd.rounds else A


cdef inline void round_rows(
    const Simd* simd, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t K, Matrix A, Matrix out,
) noexcept nogil:
    """Rows begin ... end - 1 of A, of K numbers, as the first operand."""
    cdef Py_ssize_t m
    for m in range(begin, end if simd.rounds else begin):
        simd.products.row_words(K, moved(simd, A.at, m * A.row), moved(simd, out.at, m * out.row))


cdef inline Panels panels_as_rows(
    const Simd* simd, Panels A, void* memory, Py_ssize_t rows,
) noexcept nogil:
    """Where so many rows of A, which is in panels, stand as the first operand."""
    cdef Py_ssize_t width = 4 * simd.lanes // simd.products.together
    return Panels(memory, width, width * rows, 0) if simd.rounds else A


cdef inline void round_panel_rows(
    const Simd* simd, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t first, Py_ssize_t last,
    Columns columns, Panels A, Panels out,
) noexcept nogil:
    """Rows begin ... end - 1 of panels first ... last - 1 as the first operand."""
    cdef Py_ssize_t m, p, W = 4 * simd.lanes
    for p in range(first, last if simd.rounds else first):
        for m in range(begin, end):
            simd.products.row_words(min(W, columns.used - p * W), from_row(simd, A, m, p).at,
                           from_row(simd, out, m, p).at)


cdef inline Panels panels_as_operand(
    const Simd* simd, Panels B, void* memory, Py_ssize_t rows,
) noexcept nogil:
    """Where so many rows of B, which is in panels, stand as the second operand."""
    cdef Py_ssize_t W = 4 * simd.lanes
    return Panels(memory, W, W * words(simd, rows), simd.lanes) if simd.rounds else B


cdef inline void round_panels(
    const Simd* simd, Py_ssize_t rows, Py_ssize_t first, Py_ssize_t last, Panels B, Panels out,
) noexcept nogil:
    """The first rows of panels first ... last - 1 as the second operand."""
    cdef Py_ssize_t p
    for p in range(first, last if simd.rounds else first):
        simd.products.panel_words(rows, from_row(simd, B, 0, p).at, from_row(simd, out, 0, p).at)


cdef inline Py_ssize_t even(Py_ssize_t n, Py_ssize_t most, Py_ssize_t unit) noexcept nogil:
    """Length of the parts of n things when they are dealt out evenly to as few parts of at most
    `most` as possible, in whole units."""
    cdef Py_ssize_t parts = (n + most - 1) // most
    return ((n + parts - 1) // parts + unit - 1) // unit * unit if parts > 0 else 0


cdef inline Py_ssize_t rows_of_block(
    const Simd* simd, Py_ssize_t M, Py_ssize_t K,
) noexcept nogil:
    """Rows of A that are handled together when there are M of K numbers."""
    return even(M, A_BLOCK // simd.number // min(K, K_BLOCK) // ROWS * ROWS, ROWS)


cdef inline Py_ssize_t tile_height(const Simd* simd, Py_ssize_t M) noexcept nogil:
    """Rows of a tile when M rows are dealt out evenly to as few tiles as possible."""
    cdef Py_ssize_t tiles = (M + simd.tile_rows - 1) // simd.tile_rows
    return (M + tiles - 1) // tiles
