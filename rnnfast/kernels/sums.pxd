"""Gradients of weights: products summed over many rows, in parts."""

from .engine cimport Matrix, Panels, Simd
from .panels cimport Columns

# The gradient of a weight as a sum of parts: see `gradient`.
ctypedef struct Sums:
    Columns columns
    Matrix out                    # (M, G*H): of the caller, or NULL where nobody wants it
    Panels panels                 # (M, G*H): memory for the panels that are not summed in place
    Py_ssize_t in_place           # panels 0 ... in_place - 1 are summed in `out`
    void* rest                    # in the places of `panels`, or NULL where there are few parts
    bint begun                    # whether there is anything in it

cdef Sums sums_of(const Simd* simd, Columns columns, Matrix out, void* memory, void* rest,
                  Py_ssize_t M) noexcept nogil
cdef void gradient(const Simd* simd, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t K, Matrix A,
                   Panels B, Sums dW, void* scratch) noexcept nogil
cdef void settle(const Simd* simd, Py_ssize_t begin, Py_ssize_t end, Sums dW) noexcept nogil
cdef Py_ssize_t gradient_scratch(const Simd* simd, Py_ssize_t M, Py_ssize_t K) noexcept nogil
cdef Py_ssize_t rest_of(Py_ssize_t calls, Py_ssize_t K, Py_ssize_t numbers) noexcept nogil
