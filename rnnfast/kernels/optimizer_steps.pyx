"""Steps of the optimizers, the norm of the gradients and clipping: one call for a list of arrays.

Each takes all arrays or none: it returns what says so, and has changed nothing, where one of them
is not of the kind that it takes. So that must be looked at in every call, which is cheap here.
`rnnfast.reference.ops` has the same for arrays of any kind.

An item is a parameter with what belongs to it; it is worked on in stretches of contiguous numbers:
its rows, where only some of them are meant, or else pieces of CHUNK.
"""

from cpython.buffer cimport (
    PyBUF_RECORDS, PyBUF_RECORDS_RO, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.float cimport FLT_MIN
from libc.stdint cimport int64_t
from libc.string cimport memset

from .engine cimport PARTS, SIMD_FORMAT_OF, Simd, TABLES, moved, part, run, threads_for

cdef enum:
    CHUNK = 16384                 # numbers that are dealt out together: fixed, whatever the threads
    COST = 12                     # a number costs as much as so many flops: it comes from memory
    ARRAYS = 4                    # most of an item
    NONE = ARRAYS                 # of its arrays is only read

cdef enum Task:
    SGD
    MOMENTUM
    NESTEROV
    ADAGRAD
    RMSPROP
    ADAM
    SCALE
    CLIP
    SQUARES

# What is done to every stretch, with its numbers; `decay` multiplies matrices first.
ctypedef struct Formula:
    Task task
    double decay, lr, a, b

ctypedef struct Item:
    const Simd* simd
    int arrays
    char* at[ARRAYS]              # W, dW and what is kept for them; or an array alone
    Py_ssize_t size, width        # numbers in all, and in a stretch
    const int64_t* rows           # stretches that count, or NULL: all of them
    Py_ssize_t stretches
    Py_ssize_t together           # stretches that are dealt out together
    Py_ssize_t deals, before      # how many times, here and in the items before
    bint matrix

ctypedef struct Steps:
    const Item* items
    Py_ssize_t count, deals       # of items; of what all of them deal out
    Formula formula
    double* sums                  # (deals,): of SQUARES


def sgd_step(params, grads, state, rows, double decay, double lr):
    """W -= lr dW. See `rnnfast.reference.ops` for the contract of this and the others."""
    return _step(params, grads, state, rows, 0, Formula(SGD, decay, lr, 0, 0))


def momentum_step(params, grads, state, rows, double decay, double lr, double momentum):
    """v = momentum v - lr dW;  W += v"""
    return _step(params, grads, state, rows, 1, Formula(MOMENTUM, decay, lr, momentum, 0))


def nesterov_step(params, grads, state, rows, double decay, double lr, double momentum):
    """v = momentum v - lr dW;  W += momentum^2 v - (1 + momentum) lr dW"""
    return _step(params, grads, state, rows, 1, Formula(NESTEROV, decay, lr, momentum, 0))


def adagrad_step(params, grads, state, rows, double decay, double lr):
    """h += dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""
    return _step(params, grads, state, rows, 1, Formula(ADAGRAD, decay, lr, 0, 0))


def rmsprop_step(params, grads, state, rows, double decay, double lr, double decay_rate):
    """h = decay_rate h + (1 - decay_rate) dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""
    return _step(params, grads, state, rows, 1, Formula(RMSPROP, decay, lr, decay_rate, 0))


def adam_step(params, grads, state, rows, double decay, double lr, double beta1, double beta2):
    """m += (1 - beta1) (dW - m);  v += (1 - beta2) (dW^2 - v);  W -= lr m / (sqrt(v) + 1e-7)"""
    return _step(params, grads, state, rows, 2, Formula(ADAM, decay, lr, 1 - beta1, 1 - beta2))


def scale_arrays(arrays, rows, double factor):
    """x *= factor"""
    if 0 < abs(factor) < FLT_MIN:  # it would be 0 below
        return False
    cdef _Work work = _work(list(zip(arrays)), rows, 1, NONE)
    if work is not None:
        work.do(Formula(SCALE, 1, factor, 0, 0), NULL)
    return work is not None


def clip_arrays(arrays, rows, double limit):
    """x = min(max(x, -limit), limit)"""
    cdef _Work work = _work(list(zip(arrays)), rows, 1, NONE)
    if work is not None:
        work.do(Formula(CLIP, 1, limit, 0, 0), NULL)
    return work is not None


def sum_of_squares(arrays, rows):
    """The sum of all squares, in double; rows of zeros change no bit of it."""
    cdef _Work work = _work(list(zip(arrays)), rows, 1, 0)
    if work is None:
        return None
    cdef bytearray memory = bytearray(work.deals * sizeof(double))
    cdef double* sums = <double*> <char*> memory
    cdef double total = 0, own
    cdef Py_ssize_t k, d
    work.do(Formula(SQUARES, 1, 0, 0, 0), sums)
    for k in range(work.count):
        own = 0
        for d in range(work.items[k].before, work.items[k].before + work.items[k].deals):
            own += sums[d]
        total += own
    return total


cdef bint _step(params, grads, state, rows, int kept, Formula formula) except -1:
    """Whether it was done, with so many arrays that are kept for each parameter."""
    params, grads, state = tuple(params), tuple(grads), tuple(state)
    if not len(params) == len(grads) == len(state):
        return False
    cdef _Work work = _work(list(map(_together, params, grads, state)), rows, 2 + kept, 1)
    if work is None:
        return False
    work.do(formula, NULL)
    return True


def _together(W, dW, slots):
    return W, dW, *slots


# ---------------------------------------------------------------- items

cdef class _Work:
    """The items of a call."""
    cdef list arrays              # who has them keeps them
    cdef object rows
    cdef bytearray memory
    cdef Item* items
    cdef Py_ssize_t count, deals
    cdef double cost

    cdef int do(self, Formula formula, double* sums) except -1:
        """The task on every stretch; SQUARES leave sums (deals,)."""
        cdef int threads = threads_for(self.cost)
        if threads > 1 and self.overlap():  # what two threads wrote at once would be anything
            threads = 1
        cdef Steps steps
        steps.items, steps.count, steps.deals = self.items, self.count, self.deals
        steps.formula, steps.sums = formula, sums
        with nogil:
            run(_share, &steps, threads)
        return 0

    cdef bint overlap(self) noexcept:
        """Whether two arrays share memory."""
        cdef Py_ssize_t i, j, k, m, size, own
        for i in range(self.count):
            own = self.items[i].size * self.items[i].simd.number
            for j in range(i + 1):
                size = self.items[j].size * self.items[j].simd.number
                for k in range(self.items[i].arrays):
                    for m in range(k if i == j else self.items[j].arrays):
                        if (self.items[i].at[k] < self.items[j].at[m] + size
                                and self.items[j].at[m] < self.items[i].at[k] + own):
                            return True
        return False


cdef _Work _work(list arrays, rows, int number, int read_only):
    """The items of these tuples of so many arrays, of which one is only read, or None if one is not
    of the kind that is taken."""
    cdef _Work work = _Work.__new__(_Work)
    cdef Py_ssize_t k
    cdef Item* item
    cdef object own
    work.arrays, work.count = arrays, len(arrays)
    work.rows = None if rows is None else tuple(rows)
    if work.rows is not None and len(<tuple> work.rows) != work.count:
        return None
    work.memory = bytearray(work.count * sizeof(Item))
    work.items = <Item*> <char*> work.memory
    for k in range(work.count):
        item = &work.items[k]
        own = None if work.rows is None else (<tuple> work.rows)[k]
        item.arrays = number
        if not _fill(item, <tuple> arrays[k], own, read_only):
            return None
        item.deals = (item.stretches + item.together - 1) // item.together
        item.before = work.deals
        work.deals += item.deals
        work.cost += <double> COST * number * min(item.size, item.stretches * item.width)
    return work


cdef bint _fill(Item* item, tuple arrays, rows, int read_only) except -1:
    """Whether the arrays are one item: of one format and shape, in one order, without gaps."""
    cdef Py_buffer[ARRAYS] buffers
    cdef Py_buffer* first = &buffers[0]
    cdef int k, taken = 0
    cdef bint c = True, f = True
    if len(arrays) != item.arrays:
        return False
    try:
        for k in range(item.arrays):
            PyObject_GetBuffer(arrays[k], &buffers[k],
                               PyBUF_RECORDS_RO if k == read_only else PyBUF_RECORDS)
            taken += 1
            if not _alike(&buffers[k], first):
                return False
            c = c and PyBuffer_IsContiguous(&buffers[k], c"C")
            f = f and PyBuffer_IsContiguous(&buffers[k], c"F")
            item.at[k] = <char*> buffers[k].buf
        if not (c or f):
            return False
        item.simd = TABLES[SIMD_FORMAT_OF(<float*> NULL) if first.format[0] == c"f"
                           else SIMD_FORMAT_OF(<double*> NULL)]
        item.size, item.matrix = first.len // first.itemsize, first.ndim > 1
        item.width, item.together = CHUNK, 1
        if rows is None:
            item.stretches = (item.size + CHUNK - 1) // CHUNK
            return True
        return c and item.matrix and _fill_rows(item, first.shape[0], rows, read_only == 0)
    except (BufferError, TypeError, ValueError):  # it gives none, or is read-only
        return False
    finally:
        for k in range(taken):
            PyBuffer_Release(&buffers[k])


cdef bint _alike(const Py_buffer* array, const Py_buffer* first) noexcept:
    """Whether an array is one of floats or doubles, in the format and shape of another."""
    cdef int axis
    if array.format == NULL or array.ndim != first.ndim:
        return False
    cdef char format_ = array.format[0]
    if (format_ != c"f" and format_ != c"d") or array.format[1] or format_ != first.format[0]:
        return False
    for axis in range(array.ndim):
        if array.shape[axis] != first.shape[axis]:
            return False
    return True


cdef bint _fill_rows(Item* item, Py_ssize_t n, rows, bint whole) except -1:
    """Whether these are numbers of its n rows, each larger than the one before; the item has them.
    As a whole it is dealt out where a sum is made of them."""
    cdef const int64_t[::1] ids = rows
    cdef Py_ssize_t k
    cdef int64_t last = -1
    for k in range(ids.shape[0]):
        if not last < ids[k] < n:
            return False
        last = ids[k]
    if item.size and ids.shape[0]:
        item.rows, item.stretches, item.width = &ids[0], ids.shape[0], item.size // n
        item.together = item.stretches if whole else max(1, CHUNK // item.width)
    return True


# ---------------------------------------------------------------- below the GIL

cdef void _share(const void* call, int thread, int threads) noexcept nogil:
    """What is dealt out to one thread."""
    cdef const Steps* steps = <const Steps*> call
    cdef Py_ssize_t begin = part(steps.deals, 1, thread, threads)
    cdef Py_ssize_t end = part(steps.deals, 1, thread + 1, threads)
    cdef const Item* item
    cdef Py_ssize_t k, d, s, last
    for k in range(steps.count):
        item = &steps.items[k]
        for d in range(max(begin - item.before, 0), min(end - item.before, item.deals)):
            last = min((d + 1) * item.together, item.stretches)
            if steps.formula.task == SQUARES:
                steps.sums[item.before + d] = _squares(item, d * item.together, last)
            else:
                for s in range(d * item.together, last):
                    _apply(&steps.formula, item, _start(item, s), _size(item, s))


cdef Py_ssize_t _start(const Item* item, Py_ssize_t s) noexcept nogil:
    """Where a stretch begins."""
    return (s if item.rows == NULL else item.rows[s]) * item.width


cdef Py_ssize_t _size(const Item* item, Py_ssize_t s) noexcept nogil:
    return min(item.width, item.size - _start(item, s))


cdef double _squares(const Item* item, Py_ssize_t s, Py_ssize_t last) noexcept nogil:
    """The sum of the squares in some stretches: in parts of each CHUNK, by where a number stands in
    it, and these added up. Numbers that are 0 or are not there come to the same."""
    cdef double[PARTS] sums
    cdef double total = 0
    cdef Py_ssize_t start, end, n, chunk = 0
    memset(sums, 0, sizeof(sums))
    for s in range(s, last):
        start = _start(item, s)
        end = start + _size(item, s)
        while start < end:
            if start // CHUNK != chunk:
                total += _total(sums)
                chunk = start // CHUNK
            n = min(end, (chunk + 1) * CHUNK) - start
            item.simd.add_squares(n, start, moved(item.simd, item.at[0], start), sums)
            start += n
    return total + _total(sums)


cdef double _total(double* sums) noexcept nogil:
    """The sum of the parts, which begin anew."""
    cdef double total = 0
    cdef int q
    for q in range(PARTS):
        total += sums[q]
        sums[q] = 0
    return total


cdef void _apply(const Formula* f, const Item* item, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    cdef const Simd* simd = item.simd
    cdef void* W = moved(simd, item.at[0], start)
    if f.task == SCALE:
        simd.scale(n, f.lr, W)
        return
    if f.task == CLIP:
        simd.clip(n, f.lr, W)
        return
    cdef void* dW = moved(simd, item.at[1], start)
    cdef void* a = moved(simd, item.at[2], start) if item.arrays > 2 else NULL
    cdef void* b = moved(simd, item.at[3], start) if item.arrays > 3 else NULL
    if f.decay != 1 and item.matrix:
        simd.scale(n, f.decay, W)
    if f.task == SGD:
        simd.sgd(n, f.lr, W, dW)
    elif f.task == MOMENTUM:
        simd.momentum(n, f.lr, f.a, W, dW, a)
    elif f.task == NESTEROV:
        simd.nesterov(n, f.lr, f.a, W, dW, a)
    elif f.task == ADAGRAD:
        simd.adagrad(n, f.lr, W, dW, a)
    elif f.task == RMSPROP:
        simd.rmsprop(n, f.lr, f.a, 1 - f.a, W, dW, a)
    elif f.task == ADAM:
        simd.adam(n, f.lr, f.a, f.b, W, dW, a, b)
