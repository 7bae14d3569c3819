"""Steps of the optimizers, one pass over each array, and the norm of the gradients.

`rnnfast.reference.ops` has the same for arrays of any kind; these take flat ones of one dtype.
"""

from cython.parallel cimport parallel, threadid

from .engine cimport part, real, simd_of, team_size, threads_for

cdef enum:
    CHUNK = 16384                 # numbers in a partial sum: fixed, so that threads change nothing
    COST = 40                     # a number costs as much as so many flops: it comes from memory


def sgd_step(real[::1] W, const real[::1] dW, double lr):
    """W -= lr dW"""
    cdef Py_ssize_t n = W.shape[0]
    cdef int threads = threads_for(COST * n)
    with nogil, parallel(num_threads=threads):
        _sgd(part(n, CHUNK, threadid(), team_size()),
             part(n, CHUNK, threadid() + 1, team_size()), W, dW, lr)


cdef void _sgd(
    Py_ssize_t j, Py_ssize_t end, real[::1] W, const real[::1] dW, double lr,
) noexcept nogil:
    if j < end:
        simd_of(&W[0]).sgd(end - j, lr, &W[j], &dW[j])


def momentum_step(real[::1] W, const real[::1] dW, real[::1] v, double lr, double momentum):
    """v = momentum v - lr dW;  W += v"""
    if W.shape[0]:
        simd_of(&W[0]).momentum(W.shape[0], lr, momentum, &W[0], &dW[0], &v[0])


def adagrad_step(real[::1] W, const real[::1] dW, real[::1] h, double lr):
    """h += dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""
    if W.shape[0]:
        simd_of(&W[0]).adagrad(W.shape[0], lr, &W[0], &dW[0], &h[0])


def rmsprop_step(real[::1] W, const real[::1] dW, real[::1] h, double lr, double decay):
    """h = decay h + (1 - decay) dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""
    if W.shape[0]:
        simd_of(&W[0]).rmsprop(W.shape[0], lr, decay, 1 - decay, &W[0], &dW[0], &h[0])


def adam_step(
    real[::1] W, const real[::1] dW, real[::1] m, real[::1] v, double lr, double beta1,
    double beta2,
):
    """m += (1 - beta1) (dW - m);  v += (1 - beta2) (dW^2 - v);  W -= lr m / (sqrt(v) + 1e-7)"""
    cdef Py_ssize_t n = W.shape[0]
    cdef int threads = threads_for(2 * COST * n)
    with nogil, parallel(num_threads=threads):
        _adam(part(n, CHUNK, threadid(), team_size()),
              part(n, CHUNK, threadid() + 1, team_size()), W, dW, m, v, lr, 1 - beta1, 1 - beta2)


cdef void _adam(
    Py_ssize_t j, Py_ssize_t end, real[::1] W, const real[::1] dW, real[::1] m, real[::1] v,
    double lr, double rate1, double rate2,
) noexcept nogil:
    if j < end:
        simd_of(&W[0]).adam(end - j, lr, rate1, rate2, &W[j], &dW[j], &m[j], &v[j])


def sum_of_squares(const real[::1] x):
    """The sum of the squares, in double."""
    cdef Py_ssize_t n = x.shape[0], k, chunks = (n + CHUNK - 1) // CHUNK
    cdef double total = 0
    with nogil:
        for k in range(chunks):
            total += simd_of(&x[0]).sum_of_squares(min(CHUNK, n - k * CHUNK), &x[k * CHUNK])
    return total


def scale_array(real[::1] x, double factor):
    """x *= factor"""
    if x.shape[0]:
        simd_of(&x[0]).scale(x.shape[0], factor, &x[0])
