"""Random masks."""

from libc.stdint cimport uint64_t

from .engine cimport real, simd_of


def draw_mask(uint64_t key, double probability, double value, out):
    """Write a random mask. See `rnnfast.reference.masks` for the contract."""
    if out.itemsize == sizeof(float):
        _draw_mask[float](key, probability, value, out)
    else:
        _draw_mask[double](key, probability, value, out)


cdef int _draw_mask(
    uint64_t key,
    double probability,
    double value,
    real[::1] out,                # OUT (n)
) except -1:
    cdef uint64_t threshold = <uint64_t> round(probability * 4294967296.0)
    cdef Py_ssize_t n = out.shape[0]
    if n:
        with nogil:
            simd_of(&out[0]).draw_mask(n, key, threshold, value, &out[0])
    return 0
