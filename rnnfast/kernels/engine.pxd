"""The engine: what every kernel takes from the machine and from its caller.

Letters in all kernels: N batch rows, T time steps, D input size, H hidden size, G gates,
V vocabulary size, U distinct tokens; L lanes of a vector, W = 4 L width of a panel, P panels.
Distances are in numbers.
"""

from libc.stdint cimport uint64_t

ctypedef fused real:
    float
    double

cdef extern from "simd.h" nogil:
    enum: ROWS "SIMD_MOST_ROWS"   # of the highest tile: rows are dealt out in such units
    enum: PARTS "SIMD_PARTS"
    enum: SIMD_FORMATS
    enum: SIMD_CELL_COUNT
    int SIMD_FORMAT_OF(const void*)
    enum:
        NO_RESET "SIMD_NO_RESET"
        RESET_BEFORE "SIMD_RESET_BEFORE"
        RESET_AFTER "SIMD_RESET_AFTER"
    ctypedef struct Cell "simd_cell":
        const char* name
        int gates, together, reset
    const Cell* simd_cells
    const char* simd_zeros

    ctypedef struct Walk "simd_walk":
        const void* at
        Py_ssize_t row, tile, k_stride, width, block

    ctypedef struct Panels "simd_panels":
        void* at
        Py_ssize_t row, panel, vector

    ctypedef struct States "simd_states":
        void* at
        Py_ssize_t row, state

    ctypedef struct Gates "simd_gates":
        void* at
        void* hidden
        Py_ssize_t gate

    # Operands of products, and the functions of one instruction set and number format; simd.h says what
    # each is.
    ctypedef struct Operands "simd_operands":
        Py_ssize_t together, rows_together
        Py_ssize_t (*panels_at_once)(Py_ssize_t) noexcept nogil
        void (*tile)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const Walk*, const Panels*,
                     const Panels*, const Panels*, const Panels*) noexcept nogil
        void (*one_row)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, const Panels*,
                        const Panels*, const Panels*) noexcept nogil
        void (*dots)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const Walk*, const void*, Py_ssize_t,
                     const Panels*, const Panels*) noexcept nogil
        void (*row_words)(Py_ssize_t, const void*, void*) noexcept nogil
        void (*panel_words)(Py_ssize_t, const void*, void*) noexcept nogil
        void (*pack_tiles)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, Py_ssize_t,
                        void*) noexcept nogil

    ctypedef struct Simd "simd_table":
        Py_ssize_t number, lanes, tile_rows
        bint rounds
        const Simd* exact
        const Simd* standing
        Operands products
        void (*map_tanh)(Py_ssize_t, const void*, void*) noexcept nogil
        void (*map_sigmoid)(Py_ssize_t, const void*, void*) noexcept nogil
        void (*map_exp)(Py_ssize_t, const void*, void*) noexcept nogil
        void (*pack)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, Py_ssize_t, Py_ssize_t,
                     Py_ssize_t, void*) noexcept nogil
        void (*unpack)(Py_ssize_t, Py_ssize_t, const void*, void*, Py_ssize_t,
                       Py_ssize_t) noexcept nogil
        void (*add)(Py_ssize_t, const void*, void*) noexcept nogil
        void (*add_exactly)(Py_ssize_t, const void*, void*, void*) noexcept nogil
        void (*fill)(Py_ssize_t, double, void*) noexcept nogil
        double (*value)(const void*) noexcept nogil
        void (*scale)(Py_ssize_t, double, void*) noexcept nogil
        void (*multiply)(Py_ssize_t, const void*, const void*, void*) noexcept nogil
        void (*blend)(Py_ssize_t, const void*, const void*, const void*, void*) noexcept nogil
        void (*divide)(Py_ssize_t, const void*, void*, void*) noexcept nogil
        void (*draw_mask)(Py_ssize_t, Py_ssize_t, Py_ssize_t, uint64_t, uint64_t, double,
                          void*) noexcept nogil
        void (*gru_reset)(Py_ssize_t, Py_ssize_t, const Gates*, const States*,
                          const States*) noexcept nogil
        void (*gru_reset_backward)(Py_ssize_t, Py_ssize_t, const Gates*, const States*,
                                   const States*, const Gates*) noexcept nogil
        double (*largest)(Py_ssize_t, const void*) noexcept nogil
        double (*exp_shifted)(Py_ssize_t, double, void*) noexcept nogil
        void (*softmax_gradient)(Py_ssize_t, const void*, void*) noexcept nogil
        double (*sigmoid_loss)(Py_ssize_t, const void*, const signed char*, void*) noexcept nogil
        void (*panel_top)(Py_ssize_t, Py_ssize_t, const void*, void*) noexcept nogil
        void (*panel_exp)(Py_ssize_t, Py_ssize_t, void*, const void*, double*) noexcept nogil
        void (*add_squares)(Py_ssize_t, Py_ssize_t, const void*, double*) noexcept nogil
        void (*clip)(Py_ssize_t, double, void*) noexcept nogil
        void (*sgd)(Py_ssize_t, double, void*, const void*) noexcept nogil
        void (*momentum)(Py_ssize_t, double, double, void*, const void*, void*) noexcept nogil
        void (*nesterov)(Py_ssize_t, double, double, void*, const void*, void*) noexcept nogil
        void (*adagrad)(Py_ssize_t, double, void*, const void*, void*) noexcept nogil
        void (*rmsprop)(Py_ssize_t, double, double, double, void*, const void*,
                        void*) noexcept nogil
        void (*adam)(Py_ssize_t, double, double, double, void*, const void*, void*,
                     void*) noexcept nogil
        void (**forward)(Py_ssize_t, Py_ssize_t, const Gates*, const States*,
                         const States*) noexcept nogil
        void (**backward)(Py_ssize_t, Py_ssize_t, const Gates*, const States*, const States*,
                          const States*, const Gates*) noexcept nogil

    ctypedef struct Level "simd_level":
        const char* name
        const Simd** tables
        const Operands* bf16
        const Operands* bf16_standing

    const Level** simd_levels
    int simd_level_usable(const Level*)

cdef enum:
    ALIGNMENT = 64                # bytes of a cache line

# The tables of the instruction set in use, one for each number format.
cdef const Simd* TABLES[SIMD_FORMATS]

# A matrix of the caller, of any strides.
ctypedef struct Matrix:
    void* at
    Py_ssize_t row, column

# An array of the caller, and the functions of its format.
ctypedef struct View:
    const Simd* simd
    Py_ssize_t rows, columns      # columns along the last axis, rows along all others
    Matrix matrix
    Py_ssize_t plane              # distance along the first of three axes

# What a thread does of a call: its number, and how many there are.
ctypedef void (*Task)(const void* call, int thread, int threads) noexcept nogil

cdef class Lent:
    cdef View view
    cdef readonly object shape, dtype

cdef class Buffer:
    cdef object _owner
    cdef Py_ssize_t _size
    cdef char* _data
    cdef void* reserve(self, Py_ssize_t count, Py_ssize_t itemsize) except NULL
    cdef void* zeroed(self, Py_ssize_t count, Py_ssize_t itemsize) except NULL

cdef class Workspace:
    cdef bint _taken
    cdef bint take(self) noexcept
    cdef void leave(self) noexcept

cdef Panels zeros() noexcept nogil
cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil
cdef Py_ssize_t part(Py_ssize_t n, Py_ssize_t unit, int thread, int threads) noexcept nogil
cdef int most_threads(object threads) except -1
cdef int threads_for(double flops, int most=*) noexcept nogil
cdef void run(Task task, const void* call, int threads) noexcept nogil
cdef void barrier(int threads) noexcept nogil
cdef int cell_number(str name) except -1
cdef Cell cell_of(int number) noexcept nogil
cdef int check_shapes(bint fit) except -1
cdef View view_of(object array, bint writable=*) except *
cdef const Simd* with_precision(const Simd* simd, object precision) except NULL


cdef inline const Simd* simd_of(const real* x) noexcept nogil:
    """The functions for arrays of x's format."""
    return TABLES[SIMD_FORMAT_OF(x)]


cdef inline void* moved(const Simd* simd, const void* at, Py_ssize_t numbers) noexcept nogil:
    """Where the number stands that is so many behind that at `at`."""
    return <char*> at + numbers * simd.number


cdef inline Py_ssize_t words(const Simd* simd, Py_ssize_t K) noexcept nogil:
    """How many words K numbers of an operand are."""
    return (K + simd.products.together - 1) // simd.products.together


cdef inline Matrix below(const Simd* simd, Matrix W, Py_ssize_t m) noexcept nogil:
    """The rows of W from row m on."""
    return Matrix(moved(simd, W.at, m * W.row), W.row, W.column)


cdef inline Matrix transposed(Matrix W) noexcept nogil:
    return Matrix(W.at, W.column, W.row)


cdef inline Matrix matrix_of(const real[:, :] W) noexcept nogil:
    cdef Py_ssize_t number = sizeof(real)
    return Matrix(<void*> &W[0, 0], W.strides[0] // number, W.strides[1] // number)


cdef inline Matrix row_of(const real[:] b) noexcept nogil:
    """A vector as a matrix of one row."""
    return Matrix(<void*> &b[0], 0, b.strides[0] // <Py_ssize_t> sizeof(real))
