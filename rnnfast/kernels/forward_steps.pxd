from .recurrent cimport Memory, Sizes

cdef void forward_task(const Sizes* s, const Memory* mem, int thread, int threads) noexcept nogil
