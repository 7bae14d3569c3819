"""The engine: matrix products on panels, threads, and scratch memory.

Every product of the library is C = init + A B with B packed into panels of W = 4 L columns (L
being the lanes of a vector), one after the other, so that the tile (simd/tile.h) reads B as one
stream. Where A has few rows, B is read where it stands. What is here cuts a product into tiles that
stay in the caches; nothing here depends on how many threads there are, and neither do results.
"""

import os

import numpy as np

from cpython.buffer cimport (
    PyBUF_RECORDS, PyBUF_RECORDS_RO, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.string cimport memcpy, memset

from ..cells import CELLS as _CELLS


cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define RNNFAST_HAS_OPENMP 1
    static void rnnfast_barrier(void) {
        #pragma omp barrier
    }
    #else
    #define RNNFAST_HAS_OPENMP 0
    #define omp_get_num_threads() 1
    static void rnnfast_barrier(void) {}
    #endif
    """
    const int RNNFAST_HAS_OPENMP
    const bint RNNFAST_DEBUG
    int omp_get_num_threads() nogil
    void rnnfast_barrier() noexcept nogil

# Blocks of a product: a panel of B of up to K_BLOCK rows (272 kB) and the rows of A that meet it
# (A_BLOCK bytes) stay in the second-level cache together. Every block of K reads and writes C once
# more, every block of rows reads B once more: so they are as long as that allows.
cdef enum:
    K_BLOCK = 1088
    A_BLOCK = 655360
    ALIGNMENT = 64

# Where weights are read where they stand: blocks of K, so that the next rows of A find a panel in
# the first-level cache; how far apart rows are that fall into the same few places of it (bytes);
# how large a matrix is that one row is best multiplied with in long pieces (bytes); how many terms
# for each row make up for adding up the lanes of a sum.
cdef enum:
    SHORT_K_BLOCK = 64
    ALIASES = 4096
    LARGE = 524288
    TERMS_WORTH = 10

# The parts of a sum over rows, see `gradient`.
cdef enum:
    PART = 128
    SUM_ROWS = 1024
    FEW_PARTS = 64
    PARTS = 4 * ROWS              # panels of memory for them, one row each

cdef Py_ssize_t LONGEST = <Py_ssize_t> 1 << (8 * sizeof(Py_ssize_t) - 2)

HAS_OPENMP = bool(RNNFAST_HAS_OPENMP)


# ---------------------------------------------------------------- instruction set

def _level():
    """The instruction set to use: the highest usable, or the one that RNNFAST_CPU asks for."""
    cdef Py_ssize_t k = 0, format_
    usable = {}
    while simd_levels[k] != NULL:
        if simd_level_usable(simd_levels[k]):
            usable[simd_levels[k].name.decode()] = k
        k += 1
    asked = os.environ.get("RNNFAST_CPU") or [*usable].pop()
    if asked not in usable:
        raise ImportError(
            f"RNNFAST_CPU: expected an instruction set that this processor and this build have "
            f"({', '.join(usable)}), got {asked!r}; unset it to use the best one"
        )
    for format_ in range(SIMD_FORMATS):
        TABLES[format_] = simd_levels[<Py_ssize_t> usable[asked]].tables[format_]
    return asked


CPU_LEVEL = _level()


# ---------------------------------------------------------------- cells

def numbered(cells, compiled):
    """{name: place among the compiled cells} for the list of cells, which must fit them: names and
    numbers of gates, in the order of their places."""
    if {name: cell.G for name, cell in cells.items()} != dict(compiled):
        raise ImportError(
            "cells: expected those that are compiled, with as many gates "
            f"({', '.join(f'{name} {gates}' for name, gates in compiled)}; SIMD_CELLS in "
            f"simd/simd.h), got {', '.join(f'{name} {cell.G}' for name, cell in cells.items())}; "
            "rnnfast/cells.py lists the same"
        )
    return {name: k for k, (name, _) in enumerate(compiled)}


_CELL_NUMBERS = numbered(_CELLS, [(simd_cells[k].name.decode(), simd_cells[k].gates)
                                  for k in range(SIMD_CELL_COUNT)])


cdef int cell_number(str name) except -1:
    """Where its functions stand in `forward` and `backward` of a table."""
    return _CELL_NUMBERS[name]


cdef Cell cell_of(int number) noexcept nogil:
    """Its gates."""
    return simd_cells[number]


# ---------------------------------------------------------------- shapes

cdef int check_shapes(bint fit) except -1:
    """An error unless the weights and gradients of a layer have the shapes of its other arrays.
    The layers look at shapes once for each array, and an array's shape may be changed in place."""
    if not fit:
        raise ValueError(
            "weights and gradients: expected the shapes that they had when the layer was made, got "
            "others; do not change the shape of an array of params or grads"
        )
    return 0


# ---------------------------------------------------------------- arrays

cdef View view_of(object array, bint writable=False) except *:
    """An array of up to three axes, or a contiguous one. A third of the time of a memoryview, for calls
    that take microseconds; who calls keeps the array."""
    cdef Py_buffer buffer
    cdef View view
    cdef Py_ssize_t k
    PyObject_GetBuffer(array, &buffer, PyBUF_RECORDS if writable else PyBUF_RECORDS_RO)
    cdef int last = buffer.ndim - 1
    cdef char format_ = buffer.format[0] if last >= 0 else 0
    view.simd = NULL
    if format_ == c"f" or format_ == c"d":
        view.simd = TABLES[SIMD_FORMAT_OF(<float*> NULL) if format_ == c"f"
                           else SIMD_FORMAT_OF(<double*> NULL)]
        view.columns, view.rows = buffer.shape[last], 1
        view.matrix = Matrix(buffer.buf, 0, buffer.strides[last] // buffer.itemsize)
        view.plane = buffer.strides[0] // buffer.itemsize
        for k in range(last):
            view.rows *= buffer.shape[k]
        if last > 0:
            view.matrix.row = buffer.strides[last - 1] // buffer.itemsize
    PyBuffer_Release(&buffer)
    if view.simd == NULL:
        raise TypeError(f"kernels: expected an array of float32 or float64, got {array!r}")
    return view


# ---------------------------------------------------------------- threads

cdef int NUM_THREADS = 1
# A child made by fork has no threads of its parent, and OpenMP would wait for them for ever.
cdef bint FORKED = False
# Below so many flops (some 100 microseconds) a call is not worth waking a second thread.
cdef double SERIAL_FLOPS = 2e7


def set_num_threads(int n):
    """Threads that a layer call may use from now on; 1 without OpenMP, and in a forked child."""
    global NUM_THREADS
    NUM_THREADS = n if RNNFAST_HAS_OPENMP and not FORKED else 1


def get_num_threads():
    """Threads that a layer call may use."""
    return NUM_THREADS


def set_serial_flops(double flops):
    """Let calls of fewer flops be serial; returns what it was. For tests."""
    global SERIAL_FLOPS
    before, SERIAL_FLOPS = SERIAL_FLOPS, flops
    return before


def _in_child():
    global FORKED, NUM_THREADS
    FORKED, NUM_THREADS = True, 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


cdef int threads_for(double flops) noexcept nogil:
    return 1 if flops < SERIAL_FLOPS else NUM_THREADS


cdef int team_size() noexcept nogil:
    return omp_get_num_threads()


cdef void barrier(int threads) noexcept nogil:
    if threads > 1:
        rnnfast_barrier()


cdef Py_ssize_t part(Py_ssize_t n, Py_ssize_t unit, int thread, int threads) noexcept nogil:
    """Where the share of a thread begins, and that of the thread before ends, in n things dealt
    out in whole units."""
    cdef Py_ssize_t units = (n + unit - 1) // unit
    return min(n, units * thread // threads * unit)


# ---------------------------------------------------------------- memory

cdef class Buffer:
    """Scratch memory that only grows and is kept between calls, aligned to cache lines.

    In a debug build it is new at every call, no larger than asked for, and full of NaN: so
    AddressSanitizer sees every overrun, and tests every number that is read before it is written.
    """

    cdef void* reserve(self, Py_ssize_t count, Py_ssize_t itemsize) except NULL:
        """Memory for `count` numbers of any values; 0: that of the last call, kept."""
        cdef unsigned char[::1] view
        if RNNFAST_DEBUG and count > 0:
            self._owner = np.full(count * itemsize, 255, np.uint8)
            view = self._owner
            self._data = <char*> &view[0]
        elif self._data == NULL or count * itemsize > self._size:
            self._owner = np.empty(count * itemsize + 2 * ALIGNMENT, np.uint8)
            view = self._owner
            self._data = <char*> &view[0]
            self._data += -(<size_t> self._data) % ALIGNMENT
            self._size = count * itemsize
        return self._data

    cdef void* zeroed(self, Py_ssize_t count, Py_ssize_t itemsize) except NULL:
        """Memory for `count` numbers, all 0."""
        cdef void* data = self.reserve(count, itemsize)
        memset(data, 0, count * itemsize)
        return data


cdef class Workspace:
    """Memory that calls of one layer share, and that one call at a time may use."""

    cdef bint take(self) noexcept:
        """Whether the memory is now the caller's, who must `leave` it.

        Asked and taken without anything in between that could let another Python thread run.
        """
        cdef bint free = not self._taken
        self._taken = True
        return free

    cdef void leave(self) noexcept:
        self._taken = False


cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    """At least n numbers, an odd number of cache lines: rows of that length do not all fall into
    the same few places of a cache when a column is walked down."""
    return (((n * itemsize + ALIGNMENT - 1) // ALIGNMENT) | 1) * ALIGNMENT // itemsize


# ---------------------------------------------------------------- products

cdef Walk rows_of(const void* at, Py_ssize_t row) noexcept nogil:
    """A is a matrix of contiguous rows, `row` apart."""
    return Walk(at, row, row, 1, LONGEST, 0)


cdef Walk across(const Simd* simd, Panels panels) noexcept nogil:
    """A is a matrix in panels."""
    return Walk(panels.at, panels.row, panels.row, 1, 4 * simd.lanes, panels.panel)


cdef Panels zeros() noexcept nogil:
    """Rows of zeros."""
    return Panels(<void*> simd_zeros, 0, 0, 0)


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
    Walk A,                       # IN (M, K)
    Panels B,                     # IN (K, columns)
    Panels init,                  # IN (M, columns), of which C may be the memory
    const Panels* plus,           # IN (M, columns) likewise, or NULL
    Panels C,                     # OUT (M, columns)
) noexcept nogil:
    """C = init + A B, and + plus unless that is NULL"""
    cdef Py_ssize_t W = 4 * simd.lanes, panels = (columns + W - 1) // W
    cdef Py_ssize_t m0, m1, m, n, k, p, height, widest, rows, K_k
    cdef Py_ssize_t M_most = rows_of_block(simd, M, K)
    cdef Py_ssize_t K_most = even(K, K_BLOCK if B.row == W else short_block(simd), W)
    cdef Walk a = A
    cdef Panels b, from_, c, more
    cdef const Panels* plus_k
    cdef void* A_k
    m0 = 0
    while m0 < M:
        m1 = min(m0 + M_most, M)
        height = tile_height(simd, m1 - m0)
        widest = simd.panels_at_once(height)
        k = 0
        while k < K:
            K_k = min(K_most, K - k)
            A_k = moved(simd, A.at, k % A.width * A.k_stride + k // A.width * A.block)
            p = 0
            while p < panels:
                n = min(widest * W, columns - p * W)
                b = from_row(simd, B, k, p)
                m = m0
                while m < m1:
                    rows = min(height, m1 - m)
                    a.at = moved(simd, A_k, m * A.tile)
                    c = from_row(simd, C, m, p)
                    # the next block of k adds to what this one left
                    from_, plus_k = c, NULL
                    if k == 0:
                        from_ = from_row(simd, init, m, p)
                        if plus != NULL:
                            more = from_row(simd, plus[0], m, p)
                            plus_k = &more
                    simd.tile(rows, n, K_k, &a, &b, &from_, plus_k, &c)
                    m += rows
                p += widest
            k += K_k
        m0 = m1


cdef inline Py_ssize_t even(Py_ssize_t n, Py_ssize_t most, Py_ssize_t unit) noexcept nogil:
    """Length of the parts of n things when they are dealt out evenly to as few parts of at most
    `most` as possible, in whole units."""
    cdef Py_ssize_t parts = (n + most - 1) // most
    return ((n + parts - 1) // parts + unit - 1) // unit * unit if parts > 0 else 0


cdef inline Py_ssize_t short_block(const Simd* simd) noexcept nogil:
    """Longest block of K where B is not packed: wider vectors need fewer rows of A for it."""
    return max(SHORT_K_BLOCK, 2 * simd.lanes * simd.number)


cdef inline Py_ssize_t rows_of_block(
    const Simd* simd, Py_ssize_t M, Py_ssize_t K,
) noexcept nogil:
    """Rows of A that are handled together when there are M of K numbers."""
    return even(M, A_BLOCK // simd.number // min(K, K_BLOCK) // ROWS * ROWS, ROWS)


cdef inline Py_ssize_t tile_height(const Simd* simd, Py_ssize_t M) noexcept nogil:
    """Rows of a tile when M rows are dealt out evenly to as few tiles as possible."""
    cdef Py_ssize_t tiles = (M + simd.tile_rows - 1) // simd.tile_rows
    return (M + tiles - 1) // tiles


cdef Columns columns_of(Py_ssize_t gates, Py_ssize_t H, Py_ssize_t lanes) noexcept nogil:
    cdef Columns columns
    columns.H, columns.gates, columns.lanes = H, gates, lanes
    columns.units = 4 // gates * lanes
    columns.panels = (H + columns.units - 1) // columns.units
    columns.used = gates * H
    return columns


cdef Py_ssize_t units_of(Columns columns, Py_ssize_t p) noexcept nogil:
    """Units of panel p."""
    return min(columns.units, columns.H - p * columns.units)


cdef Py_ssize_t computed(Columns columns) noexcept nogil:
    """Columns to compute where memory is in panels: whole vectors."""
    return (columns.used + columns.lanes - 1) // columns.lanes * columns.lanes


cdef inline Py_ssize_t clipped(Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    return max(0, min(n, most))


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
    cdef Py_ssize_t p, g, u, n, L = columns.lanes, vector = _vector(columns)
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


cdef inline Py_ssize_t _vector(Columns columns) noexcept nogil:
    """How far the 4 vectors of a whole panel are apart in a row of the caller's matrix, or 0 where
    they are not evenly apart."""
    return columns.lanes if columns.gates == 1 else columns.H if columns.gates == 4 else 0


cdef void pack_transposed(
    const Simd* simd,
    Matrix W,                     # IN (n_rows, G * H)
    Py_ssize_t n_rows,
    Columns columns,
    Py_ssize_t first,             # panels of n_rows: first ... last - 1
    Py_ssize_t last,
    Panels B,                     # OUT (P * W, n_rows)
) noexcept nogil:
    """The transpose of W, whose rows are the columns of W in the order in which panels hold them;
    of the P * W rows of a panel, only those used are written."""
    cdef Py_ssize_t p, g, u, n, q, L = columns.lanes, W_p = 4 * L
    for q in range(first, last):
        for g in range(columns.gates):
            for p in range(columns.panels):  # innermost, since it walks along rows of W
                n = units_of(columns, p)
                u = 0
                while u < n:
                    simd.pack(min(L, n - u), 4, clipped(n_rows - q * W_p, W_p),
                              moved(simd, W.at, q * W_p * W.row + W.column
                                    * (g * columns.H + p * columns.units + u)),
                              W.column, W.row, L * W.row,
                              moved(simd, B.at, q * B.panel + (p * W_p + g * n + u) * W_p))
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
    cdef Py_ssize_t vector = _vector(columns), lanes = columns.lanes
    cdef bint aliased = W.row * simd.number % ALIASES == 0
    B.W, B.K, B.columns = W, K, columns
    B.by_rows = (W.column == 1 and vector > 0 and (W.row >= lanes or W.row <= -lanes)
                 and rows <= (lanes if aliased else FEW_ROWS))
    B.by_columns = (not B.by_rows and W.row == 1
                    and rows <= FEW_ROWS and K >= max(lanes, TERMS_WORTH * rows))
    B.packed = not (B.by_rows or B.by_columns)
    # where a panel of all gates begins at its next units, its gates are H apart
    B.panels = Panels(W.at, W.row, columns.units, vector)
    return B


cdef void pack_weights(
    const Simd* simd, const Weights* B, Py_ssize_t first, Py_ssize_t last,
) noexcept nogil:
    """Panels first ... last - 1, if W is to be packed."""
    if B.packed:
        pack(simd, B.W, B.K, B.columns, first, last, B.panels)


cdef void product_with(
    const Simd* simd,
    Py_ssize_t M,
    Py_ssize_t columns,           # of panels `first` ...
    Walk A,                       # IN (M, K), rows contiguous unless B is packed
    const Weights* B,             # IN (K, columns)
    Py_ssize_t first,
    Panels init,                  # IN (M, columns), of which C may be the memory
    Panels C,                     # OUT (M, columns), vectors side by side
) noexcept nogil:
    """C = init + A B"""
    cdef Py_ssize_t W = 4 * simd.lanes, panels = (columns + W - 1) // W, before = panels
    if B.by_columns:
        _product_by_columns(simd, M, panels, A, B, first, init, C)
        return
    if B.packed:
        product(simd, M, columns, B.K, A, from_row(simd, B.panels, 0, first), init, C)
        return
    if first + panels == B.columns.panels and B.columns.H % simd.lanes > 0:
        before -= 1 if B.columns.gates > 1 else min(
            panels, simd.panels_at_once(tile_height(simd, M)))
    cdef Py_ssize_t whole = min(columns, before * W)
    if M == 1 and B.K * B.columns.used * simd.number >= LARGE and (
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
    simd.one_row(gates, vectors // gates, B.K, A.at, &b, &init, &C)


cdef void _product_at_the_end(
    const Simd* simd, Py_ssize_t M, Py_ssize_t columns, Walk A, const Weights* B,
    Py_ssize_t first, Panels init, Panels C,
) noexcept nogil:
    """The same by rows for the last panels, of which the last one ends within a vector. What a
    vector reads beyond the end of a row belongs to the next row, and comes into columns that nobody
    looks at; of the row that stands last in memory a copy is read."""
    cdef char copy[16 * ALIGNMENT]
    cdef Py_ssize_t W = 4 * simd.lanes, K = B.K, k = K - 1 if B.W.row > 0 else 0, g
    cdef Py_ssize_t n = B.columns.used - first * W
    cdef Panels rest = from_row(simd, B.panels, 0, first), row = panels_at(simd, &copy[0], 1)
    cdef Walk a = A
    memset(&copy[0], 0, sizeof(copy))
    if B.columns.gates > 1:
        # every gate has a vector, and the next one writes over what it computes beyond n units
        n = units_of(B.columns, first)
        columns, C.vector, init.vector = W, n, min(init.vector, n)
    for g in range(B.columns.gates):
        memcpy(moved(simd, row.at, g * row.vector),
               moved(simd, rest.at, k * rest.row + g * rest.vector), n * simd.number)
    if k > 0:
        product(simd, M, columns, k, A, rest, init, C)
        init = C
    a.at = moved(simd, A.at, k)
    product(simd, M, columns, 1, a, row, init, C)
    if k == 0 and K > 1:
        a.at = moved(simd, A.at, 1)
        product(simd, M, columns, K - 1, a, from_row(simd, rest, 1, 0), C, C)


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
            simd.dots(M, n, B.K, &A, moved(simd, B.W.at, B.W.column * (
                g * B.columns.H + (first + p) * B.columns.units)), B.W.column, &from_, &c)


# ---------------------------------------------------------------- gradients of weights

# A gradient is a sum over rows, A^T B, which may be millions, and rounding errors must not grow
# with them. So registers hold the sums of PART rows, and these are added up: all of them where the
# rows are few, else those of SUM_ROWS, whose sums are added exactly, what is lost by rounding going
# into `rest`. Where a part begins does not depend on threads.

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
    if rest == NULL and out.column == 1 and _vector(columns) > 0:
        # the last panel of one gate is a whole one, or its columns stand side by side
        dW.in_place = columns.panels if columns.gates == 1 else columns.H // columns.units
    return dW


cdef void gradient(
    const Simd* simd,
    Py_ssize_t begin,             # rows begin ... end - 1 of dW
    Py_ssize_t end,
    Py_ssize_t K,
    Matrix A,                     # IN (K, M), rows contiguous
    Panels B,                     # IN (K, G*H), rows one after the other
    Sums dW,                      # INOUT (M, G*H)
    void* scratch,                # of gradient_scratch(M, K) numbers
) noexcept nogil:
    """dW = A^T B, or that is added to dW where it has begun. B, the gradients of what the weight
    was used for, has been written in panels already. A is packed, tile by tile: else every number
    of it would come from a cache line, and often a page, of its own."""
    cdef Py_ssize_t W = 4 * simd.lanes, columns = computed(dW.columns)
    cdef Py_ssize_t m, k, p, rows, K_k, K_most = even(K, SUM_ROWS, PART)
    cdef Py_ssize_t M_most = rows_of_block(simd, end - begin, K)
    # scratch: [parts: PARTS rows | block: M_most rows | tiles of A]
    cdef Panels parts = Panels(scratch, 4 * W, W, simd.lanes), place, sums, whole
    cdef Panels block = panels_at(simd, moved(simd, scratch, PARTS * W), M_most)
    cdef void* memory = moved(simd, block.at, M_most * W)
    cdef Walk tiles
    cdef bint add
    # the next panel of an LSTM begins at its next L units, where its gates are H apart
    place.row, place.panel, place.vector = dW.out.row, dW.columns.units, _vector(dW.columns)
    m = begin
    while m < end:
        rows = min(M_most, end - m)
        k = 0
        while k < K:
            K_k = min(K_most, K - k)
            tiles = Walk(memory, 1, K_k, tile_height(simd, rows), LONGEST, 0)
            simd.pack_tiles(K_k, rows, tiles.k_stride, moved(simd, A.at, k * A.row + m), A.row,
                            memory)
            add = k > 0 or dW.begun
            if dW.in_place > 0:
                place.at = moved(simd, dW.out.at, m * dW.out.row)
                _add_parts(simd, rows, min(dW.in_place * W, dW.columns.used), K_k, tiles,
                           from_row(simd, B, k, 0), parts, place, add)
            for p in range(dW.in_place, dW.columns.panels):
                sums = from_row(simd, dW.panels, m, p - dW.in_place)
                whole = sums
                if add and dW.rest != NULL:
                    whole = block
                _add_parts(simd, rows, min(W, columns - p * W), K_k, tiles,
                           from_row(simd, B, k, p), parts, whole, add and dW.rest == NULL)
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
    """C = A B, or that is added to C; sums of PART terms are added up tile by tile."""
    cdef Py_ssize_t W = 4 * simd.lanes, panels = (columns + W - 1) // W
    cdef Py_ssize_t m, k, p, rows, K_k, used, whole, height = tile_height(simd, M)
    cdef Py_ssize_t at_once = simd.panels_at_once(height)
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
                K_k = min(PART, K - k)
                a.at = moved(simd, A.at, m * A.tile + k * A.k_stride)
                b = from_row(simd, B, k, p)
                k += K_k
                touches_C = k == K or plus == &c
                simd.tile(rows, used if touches_C else whole, K_k, &a, &b, &nothing, plus,
                          &c if k == K else &parts)
                plus = &parts
            m += rows
        p += at_once


cdef void settle(
    const Simd* simd, Py_ssize_t begin, Py_ssize_t end, Sums dW,
) noexcept nogil:
    """Rows begin ... end - 1 of a gradient, whose parts are all there, in their place."""
    cdef Py_ssize_t p, place, panels = dW.columns.panels - dW.in_place
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

def matmul(const real[:, :] A, const real[:, :] B):
    """A B, packed and multiplied as in a layer; A has contiguous rows."""
    cdef Py_ssize_t M = A.shape[0], K = A.shape[1], n = B.shape[1], number = sizeof(real)
    cdef const Simd* simd = simd_of(&A[0, 0])
    cdef Columns columns = columns_of(1, n, simd.lanes)
    cdef Buffer packed = Buffer()
    cdef Py_ssize_t W = 4 * simd.lanes
    cdef Panels B_p = panels_at(simd, packed.reserve(columns.panels * K * W, number), K)
    out = np.empty((M, n), A.base.dtype)
    cdef real[:, ::1] C = out
    with nogil:
        pack(simd, matrix_of(B), K, columns, 0, columns.panels, B_p)
        product(simd, M, n, K, rows_of(&A[0, 0], A.strides[0] // number), B_p, zeros(),
                rows_in_panels(simd, &C[0, 0], n))
    return out


def multiply(A, W, init, Py_ssize_t gates, Py_ssize_t rows):
    """How W is read for so many rows, and init + A W, computed panel by panel."""
    out = np.empty(init.shape, W.dtype)
    cdef View a = view_of(A), w = view_of(W), from_ = view_of(init), to = view_of(out, True)
    cdef const Simd* simd = w.simd
    cdef Py_ssize_t width = 4 * simd.lanes, p
    cdef Columns columns = columns_of(gates, w.columns // gates, simd.lanes)
    cdef Weights B = weights_for(simd, w.matrix, w.rows, columns, rows)
    cdef Buffer packed = Buffer(), memory = Buffer()
    cdef Panels C = panels_at(
        simd, memory.reserve(columns.panels * a.rows * width, simd.number), a.rows), c
    if B.packed:
        B.panels = panels_at(
            simd, packed.reserve(columns.panels * w.rows * width, simd.number), w.rows)
    with nogil:
        pack_weights(simd, &B, 0, columns.panels)
        pack(simd, from_.matrix, a.rows, columns, 0, columns.panels, C)
        for p in range(columns.panels):
            c = from_row(simd, C, 0, p)
            product_with(simd, a.rows, min(width, computed(columns) - p * width),
                         rows_of(a.matrix.at, a.matrix.row), &B, p, c, c)
        unpack(simd, 0, a.rows, columns, 0, C, to.matrix)
    return "packed" if B.packed else "rows" if B.by_rows else "columns", out


def product_of_columns(const real[:, ::1] A, const real[:, :] B, Py_ssize_t tile_rows):
    """A^T B, summed as the gradient of a weight, in tiles of up to `tile_rows` rows."""
    cdef Py_ssize_t K = A.shape[0], M = A.shape[1], n = B.shape[1], number = sizeof(real)
    cdef Simd simd = simd_of(&A[0, 0])[0]
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
        gradient(&simd, 0, M, K, Matrix(<void*> &A[0, 0], M, 1), B_p, sums, memory_of_scratch)
        settle(&simd, 0, M, sums)
    return out


def map_function(str name, const real[::1] x):
    """tanh, sigmoid or exp of every number."""
    out = np.empty(x.shape[0], x.base.dtype)
    cdef real[::1] y = out
    cdef const Simd* simd
    if x.shape[0]:
        simd = simd_of(&x[0])
        if name == "tanh":
            simd.map_tanh(x.shape[0], &x[0], &y[0])
        elif name == "sigmoid":
            simd.map_sigmoid(x.shape[0], &x[0], &y[0])
        else:
            simd.map_exp(x.shape[0], &x[0], &y[0])
    return out
