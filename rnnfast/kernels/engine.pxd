"""The engine: what every kernel is made of. engine.pyx explains it.

Letters in all kernels: N batch rows, T time steps, D input size, H hidden size, G gates,
V vocabulary size, U distinct tokens; L lanes of a vector, W = 4 L width of a panel, P panels.
"""

ctypedef fused real:
    float
    double

cdef extern from "simd.h" nogil:
    int RNNFAST_RNN, RNNFAST_LSTM
    ctypedef struct simd_f32:
        Py_ssize_t lanes, tile_rows
        Py_ssize_t (*panels_at_once)(Py_ssize_t) noexcept nogil
        void (*tile)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t,
                     Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, const float*,
                     Py_ssize_t, Py_ssize_t, float*, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (**forward)(Py_ssize_t, Py_ssize_t, float*, const float*, float*, Py_ssize_t,
                         Py_ssize_t) noexcept nogil
        void (**backward)(Py_ssize_t, Py_ssize_t, const float*, const float*, const float*, float*,
                          float*, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (**map)(Py_ssize_t, const float*, float*) noexcept nogil
        void (*pack)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t,
                     float*) noexcept nogil
        void (*pack_tiles)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t,
                           float*) noexcept nogil
        void (*unpack)(Py_ssize_t, Py_ssize_t, const float*, float*, Py_ssize_t,
                       Py_ssize_t) noexcept nogil
        void (*add)(Py_ssize_t, const float*, float*) noexcept nogil
        float (*largest)(Py_ssize_t, const float*) noexcept nogil
        double (*exp_shifted)(Py_ssize_t, float, float*) noexcept nogil
        void (*panel_top)(Py_ssize_t, Py_ssize_t, const float*, float*) noexcept nogil
        void (*panel_exp)(Py_ssize_t, Py_ssize_t, float*, const float*, double*) noexcept nogil
        void (*scale)(Py_ssize_t, float, float*) noexcept nogil
        double (*sum_of_squares)(Py_ssize_t, const float*) noexcept nogil
        void (*sgd)(Py_ssize_t, float, float*, const float*) noexcept nogil
        void (*momentum)(Py_ssize_t, float, float, float*, const float*, float*) noexcept nogil
        void (*adagrad)(Py_ssize_t, float, float*, const float*, float*) noexcept nogil
        void (*rmsprop)(Py_ssize_t, float, float, float, float*, const float*,
                        float*) noexcept nogil
        void (*adam)(Py_ssize_t, float, float, float, float*, const float*, float*,
                     float*) noexcept nogil
    ctypedef struct simd_f64:
        Py_ssize_t lanes, tile_rows
        Py_ssize_t (*panels_at_once)(Py_ssize_t) noexcept nogil
        void (*tile)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t,
                     Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, const double*,
                     Py_ssize_t, Py_ssize_t, double*, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (**forward)(Py_ssize_t, Py_ssize_t, double*, const double*, double*, Py_ssize_t,
                         Py_ssize_t) noexcept nogil
        void (**backward)(Py_ssize_t, Py_ssize_t, const double*, const double*, const double*,
                          double*, double*, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (**map)(Py_ssize_t, const double*, double*) noexcept nogil
        void (*pack)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t,
                     double*) noexcept nogil
        void (*pack_tiles)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t,
                           double*) noexcept nogil
        void (*unpack)(Py_ssize_t, Py_ssize_t, const double*, double*, Py_ssize_t,
                       Py_ssize_t) noexcept nogil
        void (*add)(Py_ssize_t, const double*, double*) noexcept nogil
        double (*largest)(Py_ssize_t, const double*) noexcept nogil
        double (*exp_shifted)(Py_ssize_t, double, double*) noexcept nogil
        void (*panel_top)(Py_ssize_t, Py_ssize_t, const double*, double*) noexcept nogil
        void (*panel_exp)(Py_ssize_t, Py_ssize_t, double*, const double*, double*) noexcept nogil
        void (*scale)(Py_ssize_t, double, double*) noexcept nogil
        double (*sum_of_squares)(Py_ssize_t, const double*) noexcept nogil
        void (*sgd)(Py_ssize_t, double, double*, const double*) noexcept nogil
        void (*momentum)(Py_ssize_t, double, double, double*, const double*, double*) noexcept nogil
        void (*adagrad)(Py_ssize_t, double, double*, const double*, double*) noexcept nogil
        void (*rmsprop)(Py_ssize_t, double, double, double, double*, const double*,
                        double*) noexcept nogil
        void (*adam)(Py_ssize_t, double, double, double, double*, const double*, double*,
                     double*) noexcept nogil
    ctypedef struct simd_level:
        const char* name
        const simd_f32* f32
        const simd_f64* f64
    const simd_level** rnnfast_levels
    int rnnfast_level_usable(const simd_level*)

# The tables of the instruction set in use, chosen when the engine is imported.
cdef const simd_f32* F32
cdef const simd_f64* F64

# How a product finds A[m, k]: A[m * row + k % width * k_stride + k // width * block]; of every tile
# the first row m is found at A[m * tile].
ctypedef struct Walk:
    Py_ssize_t row, tile, k_stride, width, block

# How the columns of G gates of H units stand in panels. With 4 gates a panel has L units: their
# first gates, their second gates, ...; with one gate it has 4 L units, and these are the columns of
# a plain matrix. The last panel may have fewer units, and its gates stand closer together.
ctypedef struct Columns:
    Py_ssize_t H, gates, lanes, panels
    Py_ssize_t units              # of a panel
    Py_ssize_t used               # columns in all panels; beyond them there is only padding

cdef class Buffer:
    cdef object _owner
    cdef Py_ssize_t _size
    cdef char* _data
    cdef void* reserve(self, Py_ssize_t count, Py_ssize_t itemsize) except NULL

cdef Columns columns_of(Py_ssize_t gates, Py_ssize_t H, Py_ssize_t lanes) noexcept nogil
cdef Py_ssize_t units_of(Columns columns, Py_ssize_t p) noexcept nogil
cdef Py_ssize_t computed(Columns columns) noexcept nogil
cdef Walk rows_of(Py_ssize_t stride) noexcept nogil
cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil
cdef Py_ssize_t part(Py_ssize_t n, Py_ssize_t unit, int thread, int threads) noexcept nogil
cdef int threads_for(double flops) noexcept nogil
cdef void barrier(int threads) noexcept nogil
cdef int team_size() noexcept nogil

cdef void product(Py_ssize_t M, Py_ssize_t columns, Py_ssize_t K, const real* A, Walk a,
                  const real* B, Py_ssize_t b_panel, const real* init, Py_ssize_t init_row,
                  Py_ssize_t init_panel, real* C, Py_ssize_t c_row,
                  Py_ssize_t c_panel) noexcept nogil
cdef void pack(const real* W, Py_ssize_t row, Py_ssize_t column, Py_ssize_t K, Columns columns,
               Py_ssize_t first, Py_ssize_t last, real* B, Py_ssize_t b_panel) noexcept nogil
cdef void pack_transposed(const real* W, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n_rows,
                          Columns columns, Py_ssize_t first, Py_ssize_t last,
                          real* B) noexcept nogil
cdef void gradient(Py_ssize_t m0, Py_ssize_t m1, Py_ssize_t columns, Py_ssize_t K, const real* A,
                   Py_ssize_t a_row, const real* B, Py_ssize_t b_panel, bint add, real* dW,
                   Py_ssize_t dw_panel, real* scratch, const real* zeros) noexcept nogil
cdef Py_ssize_t gradient_scratch(Py_ssize_t M, Py_ssize_t K, Py_ssize_t itemsize) noexcept nogil
cdef void unpack(const real* B, Py_ssize_t b_panel, Py_ssize_t K, Columns columns, real* W,
                 Py_ssize_t row, Py_ssize_t column) noexcept nogil


cdef inline Py_ssize_t lanes_of(const real* _) noexcept nogil:
    if real is float:
        return F32.lanes
    else:
        return F64.lanes


cdef inline Py_ssize_t panels_at_once(Py_ssize_t rows, const real* _) noexcept nogil:
    """Panels that a tile of so many rows takes at once: 1, 2 or 4."""
    if real is float:
        return F32.panels_at_once(rows)
    else:
        return F64.panels_at_once(rows)


cdef inline void tile(
    Py_ssize_t rows, Py_ssize_t panels, Py_ssize_t columns, Py_ssize_t K, const real* A, Walk a,
    const real* B, Py_ssize_t b_panel, const real* init, Py_ssize_t init_row,
    Py_ssize_t init_panel, real* C, Py_ssize_t c_row, Py_ssize_t c_panel,
) noexcept nogil:
    if real is float:
        F32.tile(rows, panels, columns, K, A, a.row, a.k_stride, a.width, a.block, B, b_panel,
                 init, init_row, init_panel, C, c_row, c_panel)
    else:
        F64.tile(rows, panels, columns, K, A, a.row, a.k_stride, a.width, a.block, B, b_panel,
                 init, init_row, init_panel, C, c_row, c_panel)


cdef inline void cell_forward(
    int cell, Py_ssize_t rows, Py_ssize_t units, real* gates, const real* prev, real* next,
    Py_ssize_t row, Py_ssize_t state,
) noexcept nogil:
    if real is float:
        F32.forward[cell](rows, units, gates, prev, next, row, state)
    else:
        F64.forward[cell](rows, units, gates, prev, next, row, state)


cdef inline void cell_backward(
    int cell, Py_ssize_t rows, Py_ssize_t units, const real* gates, const real* prev,
    const real* next, real* dstates, real* das, Py_ssize_t row, Py_ssize_t state,
    Py_ssize_t dstate,
) noexcept nogil:
    if real is float:
        F32.backward[cell](rows, units, gates, prev, next, dstates, das, row, state, dstate)
    else:
        F64.backward[cell](rows, units, gates, prev, next, dstates, das, row, state, dstate)


cdef inline void pack_vector(
    Py_ssize_t K, Py_ssize_t n, const real* source, Py_ssize_t row, Py_ssize_t column, real* out,
) noexcept nogil:
    if real is float:
        F32.pack(K, n, source, row, column, out)
    else:
        F64.pack(K, n, source, row, column, out)


cdef inline void pack_tiles(
    Py_ssize_t K, Py_ssize_t M, Py_ssize_t height, const real* source, Py_ssize_t row, real* out,
) noexcept nogil:
    if real is float:
        F32.pack_tiles(K, M, height, source, row, out)
    else:
        F64.pack_tiles(K, M, height, source, row, out)


cdef inline void unpack_vector(
    Py_ssize_t M, Py_ssize_t n, const real* source, real* out, Py_ssize_t row, Py_ssize_t column,
) noexcept nogil:
    if real is float:
        F32.unpack(M, n, source, out, row, column)
    else:
        F64.unpack(M, n, source, out, row, column)


cdef inline void add(Py_ssize_t n, const real* x, real* y) noexcept nogil:
    if real is float:
        F32.add(n, x, y)
    else:
        F64.add(n, x, y)


cdef inline void scale(Py_ssize_t n, real factor, real* x) noexcept nogil:
    if real is float:
        F32.scale(n, factor, x)
    else:
        F64.scale(n, factor, x)


cdef inline void panel_top(
    Py_ssize_t rows, Py_ssize_t n, const real* panel, real* top,
) noexcept nogil:
    if real is float:
        F32.panel_top(rows, n, panel, top)
    else:
        F64.panel_top(rows, n, panel, top)


cdef inline void panel_exp(
    Py_ssize_t rows, Py_ssize_t n, real* panel, const real* largest, double* sum,
) noexcept nogil:
    if real is float:
        F32.panel_exp(rows, n, panel, largest, sum)
    else:
        F64.panel_exp(rows, n, panel, largest, sum)


cdef inline real largest_of(Py_ssize_t n, const real* x) noexcept nogil:
    if real is float:
        return F32.largest(n, x)
    else:
        return F64.largest(n, x)


cdef inline double exp_shifted(Py_ssize_t n, real shift, real* x) noexcept nogil:
    if real is float:
        return F32.exp_shifted(n, shift, x)
    else:
        return F64.exp_shifted(n, shift, x)
