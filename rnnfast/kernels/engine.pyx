"""The engine: what every kernel takes from the machine and from its caller.

The functions of the instruction set, the cells, arrays, threads, and scratch memory. What is made
of them stands on top of each other: panels.pyx, products.pyx, sums.pyx.
"""

import os
from reprlib import repr as _shortened

import numpy as np

from cpython.buffer cimport (
    PyBUF_RECORDS, PyBUF_RECORDS_RO, PyBuffer_Release, PyObject_GetBuffer,
)
from cython.parallel cimport parallel, threadid
from libc.string cimport memset

from ..cells import KERNEL_CELLS as _CELLS
from ..errors import InputError as _InputError


cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define RNNFAST_HAS_OPENMP 1
    #else
    #define RNNFAST_HAS_OPENMP 0
    #define omp_get_num_threads() 1
    #endif

    /* Where the threads of a call wait for each other. OpenMP's barrier may spin for milliseconds, which
       is ruinous beside a busy process; how long is settled when its library is loaded, which another
       package may have done before. Here a thread sleeps after some microseconds. */
    typedef struct {
        unsigned arrived, phase, asleep;
    } __attribute__((aligned(64))) rnnfast_meeting;
    static __thread rnnfast_meeting *rnnfast_own_meeting;
    #if defined(_OPENMP) && defined(__linux__)
    #include <limits.h>
    #include <linux/futex.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #if defined(__SSE2__)
    #define rnnfast_pause() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define rnnfast_pause() __asm__ volatile("yield")
    #else
    #define rnnfast_pause() ((void) 0)
    #endif
    static void rnnfast_meet(int threads) {
        rnnfast_meeting *meeting = rnnfast_own_meeting;
        const unsigned phase = __atomic_load_n(&meeting->phase, __ATOMIC_ACQUIRE);
        int rounds = 2000;
        if (__atomic_add_fetch(&meeting->arrived, 1, __ATOMIC_ACQ_REL) == (unsigned)threads) {
            __atomic_store_n(&meeting->arrived, 0, __ATOMIC_RELAXED);
            __atomic_store_n(&meeting->phase, phase + 1, __ATOMIC_SEQ_CST);
            if (__atomic_load_n(&meeting->asleep, __ATOMIC_SEQ_CST))
                syscall(SYS_futex, &meeting->phase, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
            return;
        }
        while (__atomic_load_n(&meeting->phase, __ATOMIC_ACQUIRE) == phase) {
            if (rounds-- > 0) {
                rnnfast_pause();
                continue;
            }
            __atomic_add_fetch(&meeting->asleep, 1, __ATOMIC_SEQ_CST);
            syscall(SYS_futex, &meeting->phase, FUTEX_WAIT_PRIVATE, phase, NULL, NULL, 0);
            __atomic_sub_fetch(&meeting->asleep, 1, __ATOMIC_RELAXED);
        }
    }
    #else
    static void rnnfast_meet(int threads) {
        (void)threads;
        #pragma omp barrier
    }
    #endif
    #if defined(_OPENMP) && defined(__linux__)
    #include <dlfcn.h>
    /* Whether a child made by fork now may have threads: GNU OpenMP ends those that it keeps for the
       calling thread, if asked; LLVM's puts itself in order in the child. Asked is the library that
       has our threads, for there may be another one in the process, which others use. */
    static int rnnfast_ready_to_fork(void) {
        Dl_info found;
        void *library, *pause;
        int ready = 0;
        if (!dladdr((void *)omp_get_num_threads, &found))
            return 0;
        library = dlopen(found.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        if (!library)
            return 0;
        if (dlsym(library, "__kmpc_fork_call"))
            ready = 1;
        else if ((pause = dlsym(library, "omp_pause_resource_all")))
            ready = ((int (*)(int))pause)(2) == 0;  /* omp_pause_hard, of OpenMP 5.0 */
        dlclose(library);
        return ready;
    }
    #else
    #define rnnfast_ready_to_fork() 0
    #endif
    static __thread int rnnfast_ready;
    static int rnnfast_forked;
    #if defined(_OPENMP) && !defined(_WIN32)
    #include <pthread.h>
    static void rnnfast_in_child(void) { rnnfast_forked |= !rnnfast_ready; }
    static void rnnfast_tell_children(void) { pthread_atfork(NULL, NULL, rnnfast_in_child); }
    #else
    #define rnnfast_tell_children() ((void) 0)
    #endif

    /* Let this thread take denormal numbers for 0, make 0 of them, and round to the nearest number;
       what it did before. */
    #if defined(__SSE2__)
    #include <xmmintrin.h>
    static unsigned long long rnnfast_own_arithmetic(void) {
        const unsigned int before = _mm_getcsr();
        _mm_setcsr((before & ~0x6000u) | 0x8040); /* RC = 0, FTZ, DAZ */
        return before;
    }
    static void rnnfast_set_arithmetic(unsigned long long mode) {
        _mm_setcsr((unsigned int) mode);
    }
    #elif defined(__aarch64__)
    static void rnnfast_set_arithmetic(unsigned long long mode) {
        __asm__ volatile("msr fpcr, %0" : : "r"(mode));
    }
    static unsigned long long rnnfast_own_arithmetic(void) {
        unsigned long long before;
        __asm__ volatile("mrs %0, fpcr" : "=r"(before));
        rnnfast_set_arithmetic((before & ~(3ull << 22)) | 1ull << 24); /* RMode = 0, FZ */
        return before;
    }
    #else
    #define rnnfast_own_arithmetic() 0
    #define rnnfast_set_arithmetic(mode) ((void) (mode))
    #endif
    #ifdef __GLIBC__
    #include <malloc.h>
    static int rnnfast_keep_memory(int largest, int kept) {
        return mallopt(M_MMAP_THRESHOLD, largest) && mallopt(M_TRIM_THRESHOLD, kept);
    }
    #else
    #define rnnfast_keep_memory(largest, kept) 0
    #endif
    """
    bint rnnfast_keep_memory(int, int)
    bint rnnfast_ready_to_fork()
    bint rnnfast_ready            # of a thread that is about to fork: that a child may have threads
    bint rnnfast_forked           # that this is a child that may have no others than one
    void rnnfast_tell_children()
    const int RNNFAST_HAS_OPENMP
    const bint RNNFAST_DEBUG
    int omp_get_num_threads() nogil
    ctypedef struct Meeting "rnnfast_meeting":
        unsigned arrived, phase, asleep
    Meeting* rnnfast_own_meeting
    void rnnfast_meet(int) noexcept nogil
    unsigned long long rnnfast_own_arithmetic() noexcept nogil
    void rnnfast_set_arithmetic(unsigned long long) noexcept nogil

HAS_OPENMP = bool(RNNFAST_HAS_OPENMP)


# ---------------------------------------------------------------- instruction set

def _level():
    """The instruction set to use: the highest usable, or the one that RNNFAST_CPU asks for."""
    cdef Py_ssize_t k = 0, format_
    usable = {}
    while simd_levels[k] != NULL:
        if simd_level_usable(simd_levels[k]):
            usable[simd_levels[k].name.decode()] = k
        k += 1
    asked = os.environ.get("RNNFAST_CPU") or [*usable].pop()
    if asked not in usable:
        raise _InputError(
            f"RNNFAST_CPU: expected an instruction set that this processor and this build have "
            f"({', '.join(usable)}), got {_shortened(asked)}; unset it to use the best one"
        )
    cdef const Level* level = simd_levels[<Py_ssize_t> usable[asked]]
    for format_ in range(SIMD_FORMATS):
        TABLES[format_] = level.tables[format_]
    cdef const Simd* floats = TABLES[SIMD_FORMAT_OF(<float*> NULL)]
    _rounding(&_BF16, floats, level.bf16)
    _rounding(&_BF16_STANDING, floats, level.bf16_standing)
    _BF16.standing = _BF16_STANDING.standing = &_BF16_STANDING
    return asked


# The tables of float32 with products of operands that are rounded to bf16: packed, or read where they
# stand.
cdef Simd _BF16, _BF16_STANDING


cdef void _rounding(Simd* simd, const Simd* floats, const Operands* operands) noexcept:
    """The table of float32 with other operands."""
    simd[0] = floats[0]
    simd.rounds, simd.products = True, operands[0]


CPU_LEVEL = _level()
BF16 = _BF16.products.together > 1         # whether the processor multiplies bf16 numbers itself


cdef const Simd* with_precision(const Simd* simd, object precision) except NULL:
    """The functions with which products have this precision: None, that of the format, or bfloat16."""
    if precision is None:
        return simd
    if precision != "bfloat16" or simd.number != sizeof(float):
        raise ValueError(
            "precision: expected None, or 'bfloat16' for arrays of float32, got "
            f"{precision!r} for numbers of {simd.number} bytes"
        )
    return &_BF16


cdef Panels zeros() noexcept nogil:
    """Rows of zeros."""
    return Panels(<void*> simd_zeros, 0, 0, 0)


# ---------------------------------------------------------------- cells

def numbered(cells, compiled):
    """{name: place among the compiled cells} for the list of cells, which must fit them: names and
    numbers of gates, in the order of their places."""
    if {name: cell.G for name, cell in cells.items()} != dict(compiled):
        raise ImportError(
            "cells: expected those that are compiled, with as many gates "
            f"({', '.join(f'{name} {gates}' for name, gates in compiled)}; SIMD_CELLS in "
            f"simd/simd.h), got {', '.join(f'{name} {cell.G}' for name, cell in cells.items())}; "
            "rnnfast/cells.py lists the same"
        )
    return {name: k for k, (name, _) in enumerate(compiled)}


_CELL_NUMBERS = numbered(_CELLS, [(simd_cells[k].name.decode(), simd_cells[k].gates)
                                  for k in range(SIMD_CELL_COUNT)])


cdef int cell_number(str name) except -1:
    """Where its functions stand in `forward` and `backward` of a table."""
    return _CELL_NUMBERS[name]


cdef Cell cell_of(int number) noexcept nogil:
    """Its gates."""
    return simd_cells[number]


# ---------------------------------------------------------------- shapes

cdef int check_shapes(bint fit) except -1:
    """An error unless the weights and gradients of a layer have the shapes of its other arrays.
    The layers look at shapes once for each array, and an array's shape may be changed in place."""
    if not fit:
        raise ValueError(
            "weights and gradients: expected the shapes that they had when the layer was made, got "
            "others; do not change the shape of an array of params or grads"
        )
    return 0


# ---------------------------------------------------------------- arrays

cdef class Lent:
    """Memory of another library, in the place of an array of up to three axes.

    It takes a fraction of an array's time to make, and to look at. Who makes it says where numbers
    are, float32 or float64, and at what distances, in numbers; nobody checks that, or keeps them.
    """

    def __init__(self, size_t address, shape, strides, dtype):
        cdef Py_ssize_t k, last = len(shape) - 1
        cdef View* view = &self.view
        self.shape, self.dtype = shape, dtype
        view.simd = TABLES[SIMD_FORMAT_OF(<float*> NULL) if dtype.itemsize == sizeof(float)
                           else SIMD_FORMAT_OF(<double*> NULL)]
        view.columns, view.rows = shape[last], 1
        view.matrix = Matrix(<void*> address, 0, strides[last])
        view.plane = strides[0]
        for k in range(last):
            view.rows *= <Py_ssize_t> shape[k]
        if last > 0:
            view.matrix.row = strides[last - 1]

    def at(self, size_t address):
        """The same of other memory."""
        cdef Lent other = Lent.__new__(Lent)
        other.shape, other.dtype, other.view = self.shape, self.dtype, self.view
        other.view.matrix.at = <void*> address
        return other

    def __getitem__(self, Py_ssize_t k):
        """One along the first of three axes."""
        cdef Lent other = self.at(
            <size_t> moved(self.view.simd, self.view.matrix.at, k * self.view.plane))
        other.shape = self.shape[1:]
        other.view.rows, other.view.plane = other.shape[0], self.view.matrix.row
        return other

    def columns(self, Py_ssize_t start, Py_ssize_t stop):
        """Some along the last axis."""
        cdef Lent other = self.at(
            <size_t> moved(self.view.simd, self.view.matrix.at, start * self.view.matrix.column))
        other.shape, other.view.columns = (*self.shape[:-1], stop - start), stop - start
        return other


cdef View view_of(object array, bint writable=False) except *:
    """An array of up to three axes, or a contiguous one. Faster than a memoryview, for calls that take
    microseconds; who calls keeps the array."""
    cdef Py_buffer buffer
    cdef View view
    cdef Py_ssize_t k
    if type(array) is Lent:
        return (<Lent> array).view
    PyObject_GetBuffer(array, &buffer, PyBUF_RECORDS if writable else PyBUF_RECORDS_RO)
    cdef int last = buffer.ndim - 1
    cdef char format_ = buffer.format[0] if last >= 0 else 0
    view.simd = NULL
    if format_ == c"f" or format_ == c"d":
        view.simd = TABLES[SIMD_FORMAT_OF(<float*> NULL) if format_ == c"f"
                           else SIMD_FORMAT_OF(<double*> NULL)]
        view.columns, view.rows = buffer.shape[last], 1
        view.matrix = Matrix(buffer.buf, 0, buffer.strides[last] // buffer.itemsize)
        view.plane = buffer.strides[0] // buffer.itemsize
        for k in range(last):
            view.rows *= buffer.shape[k]
        if last > 0:
            view.matrix.row = buffer.strides[last - 1] // buffer.itemsize
    PyBuffer_Release(&buffer)
    if view.simd == NULL:
        raise TypeError(f"kernels: expected an array of float32 or float64, got {array!r}")
    return view


# ---------------------------------------------------------------- threads

cdef int NUM_THREADS = 1
# A child made by fork has no threads of its parent, and GNU OpenMP would wait for them for ever. So a
# thread that forks ends those that OpenMP keeps for it, and parent and child get new ones. Where that
# was not done, the child keeps to one thread (`rnnfast_forked`), whoever has made it. Those of other
# Python threads are none of its business.
# Below so many flops (some 100 microseconds) a call is not worth waking a second thread.
cdef double SERIAL_FLOPS = 2e7


def set_num_threads(int n):
    """Threads that a layer call may use from now on; 1 without OpenMP, and in a child made by fork
    that can have no more."""
    global NUM_THREADS
    NUM_THREADS = n if RNNFAST_HAS_OPENMP and not rnnfast_forked else 1


def get_num_threads():
    """Threads that a layer call may use."""
    return 1 if rnnfast_forked else NUM_THREADS


def set_serial_flops(double flops):
    """Let calls of fewer flops be serial; returns what it was. For tests."""
    global SERIAL_FLOPS
    before, SERIAL_FLOPS = SERIAL_FLOPS, flops
    return before


def _before_fork():
    global rnnfast_ready
    rnnfast_ready = not rnnfast_forked and rnnfast_ready_to_fork()


def _after_fork():
    global rnnfast_ready
    rnnfast_ready = False  # should the next fork not ask


if RNNFAST_HAS_OPENMP and hasattr(os, "register_at_fork"):
    rnnfast_tell_children()
    os.register_at_fork(
        before=_before_fork, after_in_child=_after_fork, after_in_parent=_after_fork
    )


cdef int most_threads(object threads) except -1:
    """Threads that a call may use: so many, or with None those of all calls."""
    if threads is None:
        return NUM_THREADS
    if threads < 1:
        raise ValueError(
            f"threads: expected a number of 1 or more, or None for that of all calls, got {threads!r}"
        )
    return threads if RNNFAST_HAS_OPENMP else 1


cdef int threads_for(double flops, int most=0) noexcept nogil:
    """Threads that are worth it, `most` at most, or NUM_THREADS."""
    return 1 if flops < SERIAL_FLOPS or rnnfast_forked else most or NUM_THREADS


cdef void run(Task task, const void* call, int threads) noexcept nogil:
    """Do what a call consists of, on so many threads. But for sums of gradients of embeddings, what is
    computed with numbers of the caller is computed here."""
    cdef Meeting place
    cdef Meeting* meeting = &place
    if threads == 1:
        _do(task, call, 0, 1, NULL)
    else:
        memset(meeting, 0, sizeof(place))
        with parallel(num_threads=threads):
            _do(task, call, threadid(), omp_get_num_threads(), meeting)


cdef void _do(
    Task task, const void* call, int thread, int threads, Meeting* meeting,
) noexcept nogil:
    """The share of a thread, in which denormal numbers are 0, since with them arithmetic takes up to a
    hundred times as long, and in which all threads round alike, whatever the caller has set for its
    own. What else runs on the thread has all that as before."""
    cdef unsigned long long before = rnnfast_own_arithmetic()
    global rnnfast_own_meeting
    rnnfast_own_meeting = meeting
    task(call, thread, threads)
    rnnfast_set_arithmetic(before)


cdef void barrier(int threads) noexcept nogil:
    if threads > 1:
        rnnfast_meet(threads)


cdef Py_ssize_t part(Py_ssize_t n, Py_ssize_t unit, int thread, int threads) noexcept nogil:
    """Where the share of a thread begins, and that of the thread before ends, in n things dealt
    out in whole units."""
    cdef Py_ssize_t units = (n + unit - 1) // unit
    return min(n, units * thread // threads * unit)


# ---------------------------------------------------------------- memory

cdef bint EXACT = RNNFAST_DEBUG


def set_exact_memory(bint exact):
    """Let scratch memory be exactly as long as it must be; returns what was before. For tests."""
    global EXACT
    before, EXACT = EXACT, exact
    return before


cdef class Buffer:
    """Scratch memory that only grows and is kept between calls, aligned to cache lines.

    In a debug build, and where a test wants it, it is new at every call, no larger than asked for,
    and full of NaN: so AddressSanitizer, or a page behind it, sees every overrun, and tests every
    number that is read before it is written.
    """

    cdef void* reserve(self, Py_ssize_t count, Py_ssize_t itemsize) except NULL:
        """Memory for `count` numbers of any values; 0: that of the last call, kept."""
        cdef unsigned char[::1] view
        cdef object owner
        # what there was stays until all is there that can fail
        if EXACT and count > 0:
            owner = np.full(count * itemsize, 255, np.uint8)
            view = owner
            self._owner, self._data, self._size = owner, <char*> &view[0], 0
        elif self._data == NULL or count * itemsize > self._size:
            owner = np.empty(count * itemsize + 2 * ALIGNMENT, np.uint8)
            view = owner
            self._owner, self._data = owner, <char*> &view[0]
            self._data += -(<size_t> self._data) % ALIGNMENT
            self._size = count * itemsize
        return self._data

    cdef void* zeroed(self, Py_ssize_t count, Py_ssize_t itemsize) except NULL:
        """Memory for `count` numbers, all 0."""
        cdef void* data = self.reserve(count, itemsize)
        memset(data, 0, count * itemsize)
        return data


cdef class Workspace:
    """Memory that calls of one layer share, and that one call at a time may use."""

    cdef bint take(self) noexcept:
        """Whether the memory is now the caller's, who must `leave` it.

        Asked and taken without anything in between that could let another Python thread run.
        """
        cdef bint free = not self._taken
        self._taken = True
        return free

    cdef void leave(self) noexcept:
        self._taken = False


def keep_memory(int largest, int kept):
    """Let the C library keep the memory of freed arrays, up to `kept` bytes of it, of arrays up to
    `largest` bytes, for the arrays that follow: what it gives back, the system must fill with zeros
    when it is asked for again, which takes longer than much of NumPy. Whether it is glibc, which
    can be told that."""
    return bool(rnnfast_keep_memory(largest, kept))


cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    """At least n numbers, an odd number of cache lines: rows of that length do not all fall into
    the same few places of a cache when a column is walked down."""
    return (((n * itemsize + ALIGNMENT - 1) // ALIGNMENT) | 1) * ALIGNMENT // itemsize


# ---------------------------------------------------------------- for tests

def map_function(str name, const real[::1] x):
    """tanh, sigmoid or exp of every number."""
    out = np.empty(x.shape[0], x.base.dtype)
    cdef real[::1] y = out
    cdef const Simd* simd
    if x.shape[0]:
        simd = simd_of(&x[0])
        if name == "tanh":
            simd.map_tanh(x.shape[0], &x[0], &y[0])
        elif name == "sigmoid":
            simd.map_sigmoid(x.shape[0], &x[0], &y[0])
        else:
            simd.map_exp(x.shape[0], &x[0], &y[0])
    return out
