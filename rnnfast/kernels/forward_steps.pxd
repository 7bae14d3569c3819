"""The loop over time, forward, and its parts for who has a loop of its own."""

from .engine cimport Panels
from .block cimport Memory, Range, Share, Sizes

cdef void forward_task(const Sizes* s, const Memory* mem, int thread, int threads) noexcept nogil
cdef void pack_layer(const Sizes* s, const Memory* mem, Range panels) noexcept nogil
cdef void round_x(const Sizes* s, const Memory* mem, Range rows, Py_ssize_t base) noexcept nogil
cdef void round_h(const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t m, Py_ssize_t n0,
                  Py_ssize_t rows, Range units) noexcept nogil
cdef void project(const Sizes* s, const Memory* mem, Range rows, Py_ssize_t base, Range panels,
                  Panels projected) noexcept nogil
cdef void one_step(const Sizes* s, const Memory* mem, Share share, Py_ssize_t t, Py_ssize_t m,
                   Py_ssize_t n0, Py_ssize_t rows) noexcept nogil
