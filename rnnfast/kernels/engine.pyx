"""The engine: matrix products on packed panels, threads, and scratch memory.

Every product of the library is C = init + A B with B packed into panels of W = 4 L columns (L
being the lanes of a vector), one after the other, so that the tile (simd/tile.h) reads B as one
stream. What is here cuts a product into tiles that stay in the caches; nothing here depends on
how many threads there are, and neither do results.
"""

import os

import numpy as np

from libc.string cimport memset


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

cdef Py_ssize_t LONGEST = <Py_ssize_t> 1 << (8 * sizeof(Py_ssize_t) - 2)

HAS_OPENMP = bool(RNNFAST_HAS_OPENMP)


# ---------------------------------------------------------------- instruction set

def _level():
    """The instruction set to use: the highest usable, or the one that RNNFAST_CPU asks for."""
    cdef Py_ssize_t k = 0
    usable = {}
    while rnnfast_levels[k] != NULL:
        if rnnfast_level_usable(rnnfast_levels[k]):
            usable[rnnfast_levels[k].name.decode()] = k
        k += 1
    asked = os.environ.get("RNNFAST_CPU") or [*usable].pop()
    if asked not in usable:
        raise ImportError(
            f"RNNFAST_CPU: expected an instruction set that this processor and this build have "
            f"({', '.join(usable)}), got {asked!r}; unset it to use the best one"
        )
    global F32, F64
    F32 = rnnfast_levels[<Py_ssize_t> usable[asked]].f32
    F64 = rnnfast_levels[<Py_ssize_t> usable[asked]].f64
    return asked


CPU_LEVEL = _level()


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


cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    """At least n numbers, an odd number of cache lines: rows of that length do not all fall into
    the same few places of a cache when a column is walked down."""
    return (((n * itemsize + ALIGNMENT - 1) // ALIGNMENT) | 1) * ALIGNMENT // itemsize


# ---------------------------------------------------------------- products

cdef Walk rows_of(Py_ssize_t stride) noexcept nogil:
    """A is a matrix of contiguous rows, `stride` apart."""
    cdef Walk walk
    walk.row, walk.tile, walk.k_stride, walk.width, walk.block = stride, stride, 1, LONGEST, 0
    return walk


cdef void product(
    Py_ssize_t M,
    Py_ssize_t columns,
    Py_ssize_t K,
    const real* A,                # IN (M, K), found by `a`
    Walk a,
    const real* B,                # IN panels (ceil(columns / W), K, W), b_panel apart
    Py_ssize_t b_panel,
    const real* init,             # IN (M, columns), rows and panels init_row, init_panel apart
    Py_ssize_t init_row,
    Py_ssize_t init_panel,
    real* C,                      # OUT (M, columns), rows and panels c_row, c_panel apart
    Py_ssize_t c_row,
    Py_ssize_t c_panel,
) noexcept nogil:
    """C = init + A B"""
    cdef Py_ssize_t W = 4 * lanes_of(A), panels = (columns + W - 1) // W
    cdef Py_ssize_t m0, m1, m, k, p, height, rows, at_once, K_k
    cdef Py_ssize_t from_row, from_panel
    cdef const real *A_k
    cdef const real *from_
    cdef Py_ssize_t M_most = rows_of_block(M, K, A), K_most = even(K, K_BLOCK, W)
    m0 = 0
    while m0 < M:
        m1 = min(m0 + M_most, M)
        height = tile_height(m1 - m0, A)
        from_, from_row, from_panel = init, init_row, init_panel
        k = 0
        while k < K:
            K_k = min(K_most, K - k)
            A_k = A + k % a.width * a.k_stride + k // a.width * a.block
            p = 0
            while p < panels:
                at_once = panels_at_once(height, A)
                while at_once > 1 and (p + at_once) * W > columns:
                    at_once //= 2
                m = m0
                while m < m1:
                    rows = min(height, m1 - m)
                    tile(rows, at_once, min(W, columns - p * W), K_k, A_k + m * a.tile, a,
                         B + p * b_panel + k * W, b_panel,
                         from_ + m * from_row + p * from_panel, from_row, from_panel,
                         C + m * c_row + p * c_panel, c_row, c_panel)
                    m += rows
                p += at_once
            # the next block of k adds to what this one left
            from_, from_row, from_panel = C, c_row, c_panel
            k += K_k
        m0 = m1


cdef inline Py_ssize_t even(Py_ssize_t n, Py_ssize_t most, Py_ssize_t unit) noexcept nogil:
    """Length of the parts of n things when they are dealt out evenly to as few parts of at most
    `most` as possible, in whole units."""
    cdef Py_ssize_t parts = (n + most - 1) // most
    return ((n + parts - 1) // parts + unit - 1) // unit * unit if parts > 0 else 0


cdef inline Py_ssize_t rows_of_block(Py_ssize_t M, Py_ssize_t K, const real* _) noexcept nogil:
    """Rows of A that are handled together when there are M of K numbers."""
    return even(M, A_BLOCK // <Py_ssize_t> sizeof(real) // min(K, K_BLOCK) // 6 * 6, 6)


cdef inline Py_ssize_t tile_height(Py_ssize_t M, const real* _) noexcept nogil:
    """Rows of a tile when M rows are dealt out evenly to as few tiles as possible."""
    cdef Py_ssize_t most = F32.tile_rows if real is float else F64.tile_rows
    cdef Py_ssize_t tiles = (M + most - 1) // most
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
    const real* W,                # IN (K, G * H), rows and columns `row` and `column` apart
    Py_ssize_t row,
    Py_ssize_t column,
    Py_ssize_t K,
    Columns columns,
    Py_ssize_t first,             # panels first ... last - 1
    Py_ssize_t last,
    real* B,                      # OUT panels (P, K, W), b_panel apart
    Py_ssize_t b_panel,
) noexcept nogil:
    """The columns of W in panels; columns beyond the last are 0."""
    cdef Py_ssize_t p, g, u, n, L = columns.lanes
    for p in range(first, last):
        n = units_of(columns, p)
        for g in range(columns.gates):
            u = 0
            while u < columns.units:
                # what is written beyond n units is 0, and the next gate goes on top of it
                pack_vector(K, clipped(n - u, L),
                            W + (g * columns.H + p * columns.units + u) * column, row, column,
                            B + p * b_panel + g * n + u)
                u += L


cdef void pack_transposed(
    const real* W,                # IN (n_rows, G * H)
    Py_ssize_t row,
    Py_ssize_t column,
    Py_ssize_t n_rows,
    Columns columns,
    Py_ssize_t first,             # panels of n_rows: first ... last - 1
    Py_ssize_t last,
    real* B,                      # OUT panels (ceil(n_rows / W), P * W, W)
) noexcept nogil:
    """The transpose of W, whose rows are the columns of W in the order in which panels hold them;
    of the P * W rows of a panel, only those used are written."""
    cdef Py_ssize_t p, g, u, n, q, w, r, L = columns.lanes, W_p = 4 * L
    cdef Py_ssize_t K = columns.panels * W_p
    for q in range(first, last):
        for w in range(4):
            r = (q * 4 + w) * L
            for g in range(columns.gates):
                for p in range(columns.panels):  # innermost, since it walks along rows of W
                    n = units_of(columns, p)
                    u = 0
                    while u < n:
                        pack_vector(min(L, n - u), clipped(n_rows - r, L),
                                    W + r * row + (g * columns.H + p * columns.units + u) * column,
                                    column, row,
                                    B + (q * K + p * W_p + g * n + u) * W_p + w * L)
                        u += L


cdef void gradient(
    Py_ssize_t m0,                # rows m0 ... m1 - 1 of dW
    Py_ssize_t m1,
    Py_ssize_t columns,
    Py_ssize_t K,
    const real* A,                # IN (K, M), rows a_row apart
    Py_ssize_t a_row,
    const real* B,                # IN panels (P, K, W), b_panel apart
    Py_ssize_t b_panel,
    bint add,                     # to what is in dW
    real* dW,                     # INOUT panels (P, M, W), dw_panel apart
    Py_ssize_t dw_panel,
    real* scratch,                # gradient_scratch(M, K) numbers
    const real* zeros,            # IN (W)
) noexcept nogil:
    """dW = A^T B, or that is added to dW. It is the gradient of a weight: B, the gradients of what
    the weight was used for, has been written in panels already. A is packed, tile by tile: else
    every number of it would come from a cache line, and often a page, of its own."""
    cdef Py_ssize_t W = 4 * lanes_of(A), m, k, rows, K_k
    cdef Py_ssize_t M_most = rows_of_block(m1 - m0, K, A), K_most = even(K, K_BLOCK, W)
    cdef Py_ssize_t init_row, init_panel
    cdef const real* init
    cdef Walk tiles
    m = m0
    while m < m1:
        rows = min(M_most, m1 - m)
        k = 0
        while k < K:
            K_k = min(K_most, K - k)
            tiles.row, tiles.tile, tiles.k_stride = 1, K_k, tile_height(rows, A)
            tiles.width, tiles.block = LONGEST, 0
            pack_tiles(K_k, rows, tiles.k_stride, A + k * a_row + m, a_row, scratch)
            if add or k > 0:
                init, init_row, init_panel = dW + m * W, W, dw_panel
            else:
                init = zeros
                init_row = init_panel = 0
            product(rows, columns, K_k, scratch, tiles, B + k * W, b_panel, init, init_row,
                    init_panel, dW + m * W, W, dw_panel)
            k += K_k
        m += rows


cdef Py_ssize_t gradient_scratch(Py_ssize_t M, Py_ssize_t K, Py_ssize_t itemsize) noexcept nogil:
    """Numbers of scratch memory for gradients of up to M rows that are sums of up to K terms."""
    return min((M + 5) // 6 * 6 * min(K, K_BLOCK), A_BLOCK // itemsize)


cdef void unpack(
    const real* B,                # IN panels (P, K, W), b_panel apart
    Py_ssize_t b_panel,
    Py_ssize_t K,
    Columns columns,
    real* W,                      # OUT (K, G * H), rows and columns `row` and `column` apart
    Py_ssize_t row,
    Py_ssize_t column,
) noexcept nogil:
    """The columns of W from panels: what `pack` has done, undone."""
    cdef Py_ssize_t p, g, u, n, L = columns.lanes
    for p in range(columns.panels):
        n = units_of(columns, p)
        for g in range(columns.gates):
            u = 0
            while u < n:
                unpack_vector(K, min(L, n - u), B + p * b_panel + g * n + u,
                              W + (g * columns.H + p * columns.units + u) * column, row, column)
                u += L


# ---------------------------------------------------------------- for tests

def matmul(const real[:, :] A, const real[:, :] B):
    """A B, packed and multiplied as in a layer; A has contiguous rows."""
    cdef Py_ssize_t M = A.shape[0], K = A.shape[1], n = B.shape[1], L
    cdef Buffer packed = Buffer(), zeros = Buffer()
    dtype = np.float32 if real is float else np.float64
    out = np.empty((M, n), dtype)
    cdef real[:, ::1] C = out
    L = lanes_of(&A[0, 0])
    cdef Columns columns = columns_of(1, n, L)
    cdef real* B_p = <real*> packed.reserve(columns.panels * K * 4 * L, sizeof(real))
    cdef real* zero = <real*> zeros.reserve(4 * L, sizeof(real))
    with nogil:
        memset(zero, 0, 4 * L * sizeof(real))
        pack(&B[0, 0], B.strides[0] // <Py_ssize_t> sizeof(real),
             B.strides[1] // <Py_ssize_t> sizeof(real), K, columns, 0, columns.panels, B_p,
             K * 4 * L)
        product(M, n, K, &A[0, 0], rows_of(A.strides[0] // <Py_ssize_t> sizeof(real)), B_p,
                K * 4 * L, zero, 0, 0, &C[0, 0], n, 4 * L)
    return out


def map_function(str name, const real[::1] x):
    """tanh, sigmoid or exp of every number."""
    cdef int function = ("tanh", "sigmoid", "exp").index(name)
    out = np.empty(x.shape[0], np.float32 if real is float else np.float64)
    cdef real[::1] y = out
    if x.shape[0]:
        if real is float:
            F32.map[function](x.shape[0], &x[0], &y[0])
        else:
            F64.map[function](x.shape[0], &x[0], &y[0])
    return out
