"""Random masks."""

from libc.stdint cimport uint64_t

from .engine cimport View, view_of


def draw_mask(uint64_t key, double probability, double value, out):
    """Write a random mask. See `rnnfast.reference.masks` for the contract."""
    cdef View mask = view_of(out, True)
    cdef uint64_t threshold = <uint64_t> round(probability * 4294967296.0)
    with nogil:
        mask.simd.draw_mask(mask.rows * mask.columns, key, threshold, value, mask.matrix.at)
