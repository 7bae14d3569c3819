"""How matrices stand in panels: the columns of gates, their places, to and fro."""

from .engine cimport Matrix, Panels, Simd, moved

# How the columns of G gates of H units stand in panels. With 4 gates a panel has L units: their
# first gates, their second gates, ...; with one gate it has 4 L units, and these are the columns of
# a plain matrix. The last panel may have fewer units, and its gates stand closer together.
ctypedef struct Columns:
    Py_ssize_t H, gates, lanes, panels
    Py_ssize_t units              # of a panel
    Py_ssize_t used               # columns in all panels; beyond them there is only padding

cdef Columns columns_of(Py_ssize_t gates, Py_ssize_t H, Py_ssize_t lanes) noexcept nogil
cdef void pack(const Simd* simd, Matrix W, Py_ssize_t K, Columns columns, Py_ssize_t first,
               Py_ssize_t last, Panels B) noexcept nogil
cdef void pack_operand(const Simd* simd, Matrix W, Py_ssize_t K, Columns columns, Py_ssize_t first,
                       Py_ssize_t last, Panels B) noexcept nogil
cdef void pack_transposed(const Simd* simd, Matrix W, Py_ssize_t n_rows, Columns columns,
                          Py_ssize_t first, Py_ssize_t last, Panels B) noexcept nogil
cdef void unpack(const Simd* simd, Py_ssize_t begin, Py_ssize_t end, Columns columns,
                 Py_ssize_t first, Panels B, Matrix out) noexcept nogil


cdef inline Py_ssize_t units_of(Columns columns, Py_ssize_t p) noexcept nogil:
    """Units of panel p."""
    return min(columns.units, columns.H - p * columns.units)


cdef inline Py_ssize_t computed(Columns columns) noexcept nogil:
    """Columns to compute where memory is in panels: whole vectors."""
    return (columns.used + columns.lanes - 1) // columns.lanes * columns.lanes


cdef inline Py_ssize_t vectors_apart(Columns columns) noexcept nogil:
    """How far the 4 vectors of a whole panel are apart in a row of the caller's matrix, or 0 where
    they are not evenly apart."""
    return columns.lanes if columns.gates == 1 else columns.H if columns.gates == 4 else 0


cdef inline Panels from_row(
    const Simd* simd, Panels panels, Py_ssize_t m, Py_ssize_t p,
) noexcept nogil:
    """Panels p ... of a matrix, from row m on."""
    return Panels(moved(simd, panels.at, m * panels.row + p * panels.panel), panels.row,
                  panels.panel, panels.vector)


cdef inline Panels panels_at(const Simd* simd, void* at, Py_ssize_t rows) noexcept nogil:
    """Panels of so many rows, one after the other."""
    return Panels(at, 4 * simd.lanes, 4 * simd.lanes * rows, simd.lanes)


cdef inline Panels rows_in_panels(const Simd* simd, void* at, Py_ssize_t row) noexcept nogil:
    """A matrix of contiguous rows, seen as panels."""
    return Panels(at, row, 4 * simd.lanes, simd.lanes)
