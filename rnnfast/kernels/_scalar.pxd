"""The scalar type of the kernels and what every one of them needs of it.

`real` is float or double: each function below exists once for each. Letters in all kernels:
N batch rows, T time steps, D input size, H hidden size, V vocabulary size, M rows of a flat
(N*T) batch.
"""

from libc.math cimport exp, expf, log, tanh, tanhf

ctypedef fused real:
    float
    double


cdef inline real tanh_of(real x) noexcept nogil:
    if real is float:
        return tanhf(x)
    else:
        return tanh(x)


cdef inline real exp_of(real x) noexcept nogil:
    if real is float:
        return expf(x)
    else:
        return exp(x)


cdef inline real sigmoid_of(real x) noexcept nogil:
    """1 / (1 + e^-x); for x -> -infinity e^-x is inf and the quotient 0, as it should be."""
    return 1 / (1 + exp_of(-x))


cdef inline void add_product(
    real* C,               # INOUT (M, N), C += A @ B
    const real* A,         # IN (M, K)
    const real* B,         # IN (K, N)
    Py_ssize_t M,
    Py_ssize_t K,
    Py_ssize_t N,
) noexcept nogil:
    """C += A @ B on C-contiguous matrices: the product inside a time step.

    Four rows of B are added to a row of C in one pass, so that C is loaded and stored once for
    every four multiplications; the compiler vectorises the loop over columns.
    """
    cdef Py_ssize_t m, k, n
    cdef real a0, a1, a2, a3
    cdef const real* b
    cdef real* c
    for m in range(M):
        c = C + m * N
        k = 0
        while k + 4 <= K:
            b = B + k * N
            a0 = A[m * K + k]
            a1 = A[m * K + k + 1]
            a2 = A[m * K + k + 2]
            a3 = A[m * K + k + 3]
            for n in range(N):
                c[n] += (a0 * b[n] + a1 * b[N + n]) + (a2 * b[2 * N + n] + a3 * b[3 * N + n])
            k += 4
        while k < K:
            b = B + k * N
            a0 = A[m * K + k]
            for n in range(N):
                c[n] += a0 * b[n]
            k += 1
