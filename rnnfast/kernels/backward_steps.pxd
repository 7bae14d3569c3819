"""The loop over time, back."""

from .block cimport Memory, Sizes

cdef enum:
    DX_ROWS = 150                 # of dx before they go to their places

cdef void backward_task(const Sizes* s, const Memory* mem, int thread, int threads) noexcept nogil
