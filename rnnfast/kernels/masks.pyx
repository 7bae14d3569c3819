"""Random masks."""

from libc.stdint cimport uint64_t

from .engine cimport View, view_of

from .._checks import check_part as _check_part


def draw_mask(
    uint64_t key, double probability, double value, out, Py_ssize_t first=0, object of=None,
):
    """Write a random mask, or a part of one. See `rnnfast.reference.masks` for the contract."""
    cdef View mask = view_of(out, True)
    cdef Py_ssize_t n = mask.rows * mask.columns
    cdef Py_ssize_t whole = n if of is None else of
    if first or whole != n:
        _check_part(first, n, whole)
    cdef uint64_t threshold = <uint64_t> round(probability * 4294967296.0)
    with nogil:
        mask.simd.draw_mask(n, first, whole, key, threshold, value, mask.matrix.at)
