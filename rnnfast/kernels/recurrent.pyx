"""Recurrent layers over a block of time steps: what Python calls.

Here the memory of a call is made, the arrays of the caller are looked at, and threads are started;
below, memory is untyped, and `Sizes.simd` knows the format. See block.pxd for the names, and for
where the rest is.
"""

import numpy as np

from libc.stdint cimport int64_t
from libc.string cimport memcmp, memcpy, memset

from .backward_steps cimport DX_ROWS, backward_task
from .block cimport (
    MOST_STATES, Memory, Sequence, Sizes, batch_row, columns_of_group, count, first, layer_sizes,
    row_at, state_at, states_from, time_of, x_row_of,
)
from .engine cimport (
    RESET_AFTER, RESET_BEFORE, ROWS, Buffer, Lent, Matrix, Panels, Simd, States, View, Workspace,
    below, cell_number, check_shapes, most_threads, moved, run, threads_for, view_of, with_precision,
    words,
)
from .forward_steps cimport forward_task
from .panels cimport computed, from_row, panels_at
from .products cimport Weights, panels_as_operand, panels_as_rows, weights_for
from .sums cimport Sums, gradient_scratch, rest_of, sums_of

cdef enum:
    BLOCK = 256                   # rows of gates that are made, while they are in a cache, from x
    CHUNK = 1024                  # rows of gates whose gradients are in memory at a time
    SECOND_LEVEL = 2097152        # bytes, about, of a second-level cache
    MOST_SCRATCH = 4              # that are kept for the next calls
    MANY_ROWS = 4096              # that use rows of x: sums of so many are exact
    FEW_STEPS = 4                 # do not make up for packing Wh
    FLOPS = 2                     # of a product, for each row and number of the weight
    STEPS_WORTH = 5               # steps that make up for a call of their own
    ROWS_WORTH = 4                # rows of the batch that make up for a thread of their own
    SMALL = 65536                 # flops for which the GIL is kept: microseconds


ctypedef struct Call:
    const Sizes* s
    const Memory* mem
    bint forward

ctypedef struct Addition:
    const Simd* simd
    Py_ssize_t numbers
    const void* given
    void* sums


cdef class Scratch:
    """Memory that a call writes before it reads it, and that nothing is kept in."""

    cdef Buffer weights_x, weights_h, biases       # packed anew by every call
    cdef Buffer projected, das, das_hidden, das_sum, sums, of_threads
    cdef Buffer x_operand, h_operand, das_rows, das_columns  # rounded

    def __cinit__(self):
        self.weights_x, self.weights_h, self.biases = Buffer(), Buffer(), Buffer()
        self.projected = Buffer()
        self.das, self.das_hidden, self.das_sum = Buffer(), Buffer(), Buffer()
        self.sums, self.of_threads = Buffer(), Buffer()
        self.x_operand, self.h_operand = Buffer(), Buffer()
        self.das_rows, self.das_columns = Buffer(), Buffer()


# Those that no call uses, or None. All layers take them from here: what the one before has used is
# still in the processor's caches. A list of constant length: giving one back needs no memory.
cdef list _SCRATCH = [None] * MOST_SCRATCH


cdef Scratch _take_scratch():
    cdef Py_ssize_t k
    for k in range(MOST_SCRATCH - 1, -1, -1):
        scratch, _SCRATCH[k] = _SCRATCH[k], None
        if scratch is not None:
            return scratch
    return Scratch()


cdef int _give_back(Scratch scratch) except -1:
    """Or None, where there is nothing to give back."""
    cdef Py_ssize_t k
    for k in range(MOST_SCRATCH):
        if _SCRATCH[k] is None:
            _SCRATCH[k] = scratch
            break
    return 0


# What a forward call finds, for when it ends before it has computed anything.
ctypedef struct Before:
    bint ready
    Sizes sizes
    Memory mem
    void* places[9]


cdef class Cache(Workspace):
    """What backward needs of forward, and memory of both, used again from call to call."""

    cdef bint ready               # whether the last forward succeeded
    cdef Sizes sizes              # of that
    cdef Memory mem
    cdef Buffer x, used, left, made, entering, h_in, reset_h, gates, hidden
    cdef Buffer dstates, rests    # of backward
    cdef Matrix Wx, Wh, dWx, dWh, db, dbh          # of a backward call, see `require`
    cdef Matrix db_again                           # where the same as db is wanted, or NULL
    cdef Scratch scratch          # while a call runs
    # arrays that are pointed to: by rows of steps and until backward, by one call
    cdef object of_rows, arrays, of_call

    def __cinit__(self):
        self.x, self.used = Buffer(), Buffer()
        self.left, self.made, self.entering = Buffer(), Buffer(), Buffer()
        self.h_in, self.reset_h, self.gates, self.hidden = Buffer(), Buffer(), Buffer(), Buffer()
        self.dstates, self.rests = Buffer(), Buffer()

    cdef int begin(self) except -1:
        """At the beginning of a call."""
        if self.scratch is None:
            self.scratch = _take_scratch()
        return 0

    cdef void as_it_is(self, Before* before) noexcept:
        """What is put back after an error, besides `arrays` and `of_rows`."""
        before.ready = self.ready
        if self.ready:
            before.sizes, before.mem = self.sizes, self.mem
            self.places(before.places)

    cdef void put_back(self, const Before* before, arrays, of_rows) noexcept:
        """Let backward follow the forward before this one, unless memory of it has been replaced."""
        cdef void* places[9]
        if before.ready:
            self.places(places)
            self.ready = memcmp(places, before.places, sizeof(places)) == 0
            self.sizes, self.mem = before.sizes, before.mem
        self.arrays, self.of_rows = arrays, of_rows

    cdef void places(self, void** at) noexcept:
        """Where the memory is that backward reads."""
        at[0], at[1], at[2] = self.x._data, self.used._data, self.left._data
        at[3], at[4], at[5] = self.made._data, self.entering._data, self.h_in._data
        at[6], at[7], at[8] = self.reset_h._data, self.gates._data, self.hidden._data

    cdef int finish(self) except -1:
        """At its end, or after an error."""
        _give_back(self.scratch)
        self.scratch = self.of_call = None
        if not self.sizes.kept:
            self.arrays = self.of_rows = None
        return 0

    cdef int require(self, cell, dhs, weights, grads) except -1:
        """An error unless gradients and weights are those of the last forward; nothing is written
        before both directions are known to fit."""
        cdef const Sizes* s = &self.sizes
        cdef Py_ssize_t columns = s.groups * s.columns.used
        cdef View Wx = view_of(weights[0]), Wh = view_of(weights[1])
        cdef View dWx = _view_at(grads, 0, True), dWh = _view_at(grads, 1, True)
        cdef View db = _view_at(grads, 2, True), dbh = _view_at(grads, 3, True)
        cdef bint ready = self.ready and s.cell == cell_number(cell.name)
        if not (ready and Wx.rows == s.D and Wh.rows == s.H and Wx.columns == Wh.columns == columns
                and Wh.simd == s.simd.exact and (dhs is None or dhs.shape == _shape_of_outputs(s))):
            expected = (_shape_of_outputs(s), s.D, columns, s.simd.number) if ready else None
            raise RuntimeError(
                "backward: expected gradients and weights as in the last forward call that "
                "succeeded, with the shape of the outputs, D, G*H and bytes of a number "
                f"{expected}, got {None if dhs is None else dhs.shape}, {Wx.rows}, {Wx.columns}, "
                f"{Wh.simd.number}; call forward first"
            )
        check_shapes(Wx.simd == s.simd.exact
                     and (dhs is None or view_of(dhs).simd == s.simd.exact)
                     and _fits(&dWx, s, s.D, columns) and _fits(&dWh, s, s.H, columns)
                     and _fits(&db, s, 1, columns) and _fits(&dbh, s, 1, columns))
        self.Wx, self.Wh = Wx.matrix, Wh.matrix
        self.dWx, self.dWh, self.db, self.dbh = dWx.matrix, dWh.matrix, db.matrix, dbh.matrix
        self.db_again.at = NULL
        if s.reset != RESET_AFTER:  # what is added to b has the same gradient
            if db.matrix.at == NULL:
                self.db = dbh.matrix
            else:
                self.db_again = dbh.matrix
            self.dbh.at = NULL
        return 0


cdef class BidirectionalCache(Workspace):
    """Those of the two directions."""

    cdef Cache ahead, back
    cdef bint together            # whether the directions of this call run side by side

    def __cinit__(self):
        self.ahead, self.back = Cache(), Cache()

    cdef int run(self, Cache one, bint both_ready, bint forward) except -1:
        """Start a direction that has been prepared, alone, or both when they are."""
        if not both_ready:        # asked once, since anybody may set the number of threads
            self.together = _side_by_side(&one.sizes)
        if not self.together:
            _run(one, None, forward)
        elif both_ready:
            _run(self.ahead, self.back, forward)
        return 0


# Memory of calls that have kept nothing, for the next one of its kind.
_SPARE = {}


cdef object _taken(cache, kind):
    """A cache whose memory may be used: the given one, unless another thread uses it."""
    if cache is None:
        cache = _SPARE.pop(kind, None)
    if cache is None or not (<Workspace?> cache).take():
        cache = kind()
        (<Workspace> cache).take()
    return cache


cdef object _left(Workspace own, bint kept):
    """What the caller gets of it."""
    own.leave()
    if kept:
        return own
    _SPARE[type(own)] = own
    return None


cdef int _take_again(Workspace own) except -1:
    if not own.take():
        raise RuntimeError(
            "another thread is calling this layer; give every thread a layer of its own"
        )
    return 0


def recurrent_forward(
    cell, xs, weights, states, *, index=None, lengths=None, batch_sizes=None, reset=None,
    reverse=False, recurrent_mask=None, zoneouts=None, need_gradient=True, cache=None, copy_xs=True,
    copy_hs=True, out=None, last=None, threads=None, precision=None,
):
    """Run a cell over a block. See `rnnfast.reference.recurrent` for the contract."""
    cdef object Wh = weights[1], dtype = Wh.dtype, H = Wh.shape[0], S = cell.S, hs = out
    cdef object N, T
    if batch_sizes is not None:
        rows = xs.shape[0]
        N, T = _rows_of_batch(batch_sizes, rows, index, lengths, reset, zoneouts), len(batch_sizes)
        shape = rows, H
    else:
        N, T = xs.shape[:2] if index is None else index.shape
        shape = N, T, H
    if out is not None:
        _require_place("out", out, shape, dtype)
    elif copy_hs or not need_gradient or lengths is not None or batch_sizes is not None:
        hs = np.empty(shape, dtype)
    if last is None:
        last = np.empty((S, N, H), dtype)
    else:
        _require_places("last", last, S, (N, H), dtype)
    cdef Cache own = _taken(cache, Cache)
    cdef Before before
    own.as_it_is(&before)
    cdef object arrays = own.arrays, of_rows = own.of_rows
    own.ready = False
    try:
        try:
            _prepare(own, cell, xs, weights, states, N, T, hs, last, index, lengths, batch_sizes,
                     reset, reverse, recurrent_mask, zoneouts, need_gradient, copy_xs, threads,
                     precision)
        except BaseException:
            own.put_back(&before, arrays, of_rows)
            raise
        if hs is None:
            hs = _where_it_stands(own)
        results = hs, last, own if need_gradient else None
        _run(own, None, True)
        own.ready = need_gradient
    finally:
        own.finish()
        _left(own, need_gradient)
    return results


def recurrent_backward(
    cell, dhs, dstates, cache, weights, grads, *, truncate=0, need_dx=True, dxs=None, dfirst=None,
    adds_dx=False, threads=None,
):
    """Gradients of the block. See `rnnfast.reference.recurrent` for the contract."""
    cdef Cache own = cache
    cdef object dtype = weights[1].dtype, results
    _take_again(own)
    try:
        dhs = _rows(dhs)
        own.require(cell, dhs, weights, grads)
        if not need_dx:
            dxs = None
        elif dxs is not None:
            _require_place("dxs", dxs, _shape_of_x(&own.sizes), dtype)
        elif adds_dx:
            raise ValueError("dxs: expected an array to add to, since adds_dx is True, got None")
        else:
            dxs = np.empty(_shape_of_x(&own.sizes), dtype)
        if dfirst is None:
            dfirst = np.empty((own.sizes.S, own.sizes.N, own.sizes.H), dtype)
        else:
            _require_places("dfirst", dfirst, own.sizes.S, (own.sizes.N, own.sizes.H), dtype)
        own.sizes.adds_dx = adds_dx
        _prepare_backward(own, dhs, dstates, truncate, dxs, dfirst, threads)
        results = dxs, dfirst
        _run(own, None, False)
        _finish(own, grads)
    finally:
        own.finish()
        own.leave()
    return results


def bidirectional_forward(
    cell, xs, weights, states, *, index=None, lengths=None, reset=None,
    recurrent_masks=(None, None), zoneouts=(None, None), need_gradient=True, cache=None,
    precision=None,
):
    """Run a cell over a block, in both directions. See `rnnfast.reference.recurrent`."""
    N, T = xs.shape[:2] if index is None else index.shape
    Wh = weights[0][1]
    H = len(Wh)
    hs = np.empty((N, T, 2 * H), Wh.dtype)
    last = np.empty((2, cell.S, N, H), Wh.dtype)
    with_precision(view_of(Wh).simd, precision)  # an error leaves the forward before as it is
    cdef BidirectionalCache own = _taken(cache, BidirectionalCache)
    own.ahead.ready = own.back.ready = False
    try:
        for k, one in enumerate((own.ahead, own.back)):
            _prepare(one, cell, xs, weights[k], None if states is None else states[k], N, T,
                     hs[:, :, k * H:(k + 1) * H], last[k], index, lengths, None, reset, k == 1,
                     recurrent_masks[k], zoneouts[k], need_gradient, True, None, precision)
            own.run(one, k == 1, True)
        own.ahead.ready = own.back.ready = need_gradient
    finally:
        own.ahead.finish()
        own.back.finish()
        cache = _left(own, need_gradient)
    return hs, last, cache


def bidirectional_backward(
    cell, dhs, dstates, cache, weights, grads, *, truncate=0, need_dx=True
):
    """Gradients of the block in both directions. See `rnnfast.reference.recurrent`."""
    cdef BidirectionalCache own = cache
    H = dhs.shape[2] // 2
    first = np.empty((2, cell.S, len(dhs), H), dhs.dtype)
    cdef object dxs = None, others = None
    halves = _rows(dhs[:, :, :H]), _rows(dhs[:, :, H:])
    _take_again(own)
    try:
        for k, one in enumerate((own.ahead, own.back)):
            (<Cache> one).require(cell, halves[k], weights[k], grads[k])
        # the second one first: more of what it has kept is still in a cache
        for k, one in ((1, own.back), (0, own.ahead)):
            (<Cache> one).sizes.adds_dx = k == 0 and not own.together
            if need_dx and not (<Cache> one).sizes.adds_dx:
                others, dxs = dxs, np.empty(_shape_of_x(&own.back.sizes), dhs.dtype)
            _prepare_backward(one, halves[k], None if dstates is None else dstates[k], truncate,
                              dxs, first[k], None)
            own.run(one, k == 0, False)
        _finish(own.ahead, grads[0])
        _finish(own.back, grads[1])
    finally:
        own.ahead.finish()
        own.back.finish()
        own.leave()
    if others is not None:
        _add(&own.ahead.sizes, others, dxs)
    return dxs, first


def recurrent_states(cell, cache):
    """All states of the block. See `rnnfast.reference.recurrent`."""
    cdef Cache own = cache
    _take_again(own)
    try:
        return _all_states(own)
    finally:
        own.leave()


def bidirectional_states(cell, cache):
    """All states of the block in both directions. See `rnnfast.reference.recurrent`."""
    cdef BidirectionalCache own = cache
    _take_again(own)
    try:
        return np.stack([_all_states(own.ahead), _all_states(own.back)])
    finally:
        own.leave()


cdef object _all_states(Cache own):
    """(S, N, T, H), 0 beyond lengths, as the last forward left them."""
    cdef const Sizes* s = &own.sizes
    cdef Py_ssize_t k, n, t
    if not own.ready:
        raise RuntimeError("states: expected a last forward call that succeeded; call forward first")
    states = np.zeros((s.S, s.N, s.T_all, s.H), _dtype(s))
    cdef View out = view_of(states, True)
    for k in range(s.S):
        for t in range(s.T):
            for n in range(count(s, t)):
                memcpy(moved(s.simd, out.matrix.at,
                             ((k * s.N + batch_row(s, n)) * s.T_all + time_of(s, t, n)) * s.H),
                       state_at(s, &own.mem.left, k, s.N + first(s, t) + n, 0),
                       s.H * s.simd.number)
    return states


cdef object _dtype(const Sizes* s):
    return np.float32 if s.simd.number == sizeof(float) else np.float64


cdef bint _side_by_side(const Sizes* s) noexcept:
    """Whether two directions run on a thread each: unless one alone would use more than half of the
    threads that both would get."""
    cdef int both = threads_for(2 * s.flops, s.most_threads)
    return both == 2 or (both > 2 and 2 * s.threads <= both)


cdef int _run(Cache own, Cache other, bint forward) except -1:
    """Start the threads of a call, or one each of two calls."""
    cdef Sizes* s = &own.sizes
    cdef Call[2] calls
    calls[0] = Call(s, &own.mem, forward)
    if other is not None:
        s.threads = other.sizes.threads = 1
        s.by_rows = other.sizes.by_rows = True
        s.alone = other.sizes.alone = False
        calls[1] = Call(&other.sizes, &other.mem, forward)
    if other is None and s.threads == 1 and s.flops < SMALL:
        run(_task, &calls[0], 1)
    else:
        with nogil:
            if other is not None:
                run(_both_tasks, &calls[0], 2)
            else:
                run(_task, &calls[0], s.threads)
    own.finish()
    if other is not None:
        other.finish()
    return 0


cdef void _both_tasks(const void* calls, int thread, int threads) noexcept nogil:
    """What one thread does of two calls that it does not share: one, or alone both."""
    if thread == 0:
        _task(calls, 0, 1)
    if thread == 1 or threads == 1:
        _task(<const Call*> calls + 1, 0, 1)


cdef void _task(const void* call, int thread, int threads) noexcept nogil:
    """What one thread does."""
    cdef const Call* own = <const Call*> call
    if own.forward:
        forward_task(own.s, own.mem, thread, threads)
    else:
        backward_task(own.s, own.mem, thread, threads)


cdef void _add(const Sizes* s, others, dxs) noexcept:
    """dxs += others, both contiguous, as a direction adds to what the other one has left."""
    cdef Addition addition = Addition(
        s.simd, dxs.size, view_of(others).matrix.at, view_of(dxs, True).matrix.at)
    with nogil:
        run(_addition_task, &addition, 1)


cdef void _addition_task(const void* call, int thread, int threads) noexcept nogil:
    cdef const Addition* own = <const Addition*> call
    own.simd.add(own.numbers, own.given, own.sums)


# ---------------------------------------------------------------- arrays of the caller

cdef int _require_place(str name, array, tuple shape, dtype) except -1:
    """An error unless an array of the caller can be written row by row."""
    cdef Py_ssize_t axis = len(shape) - 1
    if (array.shape != shape or array.dtype != dtype
            or (type(array) is not Lent and array.strides[axis] != array.itemsize
                and shape[axis] > 1)):
        raise ValueError(
            f"{name}: expected an array {shape} of {dtype} whose last axis is contiguous, got "
            f"{array.shape} of {array.dtype} with strides {getattr(array, 'strides', None)}"
        )
    return 0


cdef int _require_places(str name, arrays, Py_ssize_t S, tuple shape, dtype) except -1:
    if len(arrays) != S:
        raise ValueError(f"{name}: expected an array for each of {S} states, got {len(arrays)}")
    for array in arrays:
        _require_place(name, array, shape, dtype)
    return 0


cdef int _set_rows(Matrix* rows, const Sizes* s, arrays) except -1:
    """S arrays (N, H) that are written, or one (S, N, H)."""
    cdef Py_ssize_t k
    cdef View view
    if isinstance(arrays, np.ndarray):
        view = view_of(arrays, True)
        for k in range(s.S):
            rows[k] = Matrix(moved(s.simd, view.matrix.at, k * view.plane), view.matrix.row, 1)
        return 0
    for k in range(s.S):
        rows[k] = view_of(arrays[k], True).matrix
    return 0


cdef View _view_at(arrays, Py_ssize_t k, bint writable=False) except *:
    """Of one of some arrays, or of NULL where that is None or missing."""
    cdef View nothing
    if k < len(arrays) and arrays[k] is not None:
        return view_of(arrays[k], writable)
    memset(&nothing, 0, sizeof(nothing))
    return nothing


cdef inline bint _fits(
    const View* view, const Sizes* s, Py_ssize_t rows, Py_ssize_t columns,
) noexcept:
    """Whether an array that may be missing is of the layer's format, and of this shape."""
    return view.simd == NULL or (
        view.simd == s.simd.exact and view.rows == rows and view.columns == columns)


cdef object _rows_of_batch(batch_sizes, Py_ssize_t rows, index, lengths, reset, zoneouts):
    """How many rows a batch has in whose arrays the rows of all steps follow each other."""
    cdef const int64_t[:] sizes = batch_sizes
    cdef Py_ssize_t t, total = 0
    for t in range(sizes.shape[0]):
        if not 1 <= sizes[t] <= sizes[max(0, t - 1)]:
            total = -1
            break
        total += sizes[t]
    if total != rows or total == 0:
        raise ValueError(
            f"batch_sizes: expected how many rows each step has, never more than the one before, "
            f"{rows} in all as xs has, got {batch_sizes!r:.100}"
        )
    if not (index is None and lengths is None and reset is None and zoneouts is None):
        raise ValueError(
            "batch_sizes: expected neither index, lengths, reset nor zoneouts beside it"
        )
    return sizes[0]


cdef object _shape_of_outputs(const Sizes* s):
    if s.flat:
        return s.R, s.H
    return s.N, s.T_all, s.H


cdef object _shape_of_x(const Sizes* s):
    if s.indexed or s.flat:
        return s.U, s.D
    return s.N, s.T_all, s.D


cdef object _where_it_stands(Cache own):
    """The outputs (N, T, H) in the memory of the states."""
    cdef const Sizes* s = &own.sizes
    cdef const unsigned char[::1] memory = own.left._owner
    cdef Py_ssize_t row = s.h_row * s.simd.number, step = s.N * row
    cdef Py_ssize_t at = <const unsigned char*> state_at(s, &own.mem.left, 0, s.N, 0) - &memory[0]
    if s.reverse:
        at, step = at + (s.T - 1) * step, -step
    return np.ndarray((s.N, s.T, s.H), _dtype(s), own.left._owner, at, (row, step, s.simd.number))


cdef object _copied(array):
    return None if array is None else array.copy()


cdef object _rows(array):
    """An array whose last axis is contiguous."""
    if array is None or type(array) is Lent or array.strides[array.ndim - 1] == array.itemsize:
        return array
    if not any(array.strides):    # one number, whatever its shape
        return np.broadcast_to(np.full(array.shape[array.ndim - 1], array.flat[0]), array.shape)
    return np.ascontiguousarray(array)


cdef inline Sequence _sequence(View view) noexcept:
    """An array (N, T, J), or (U, J) as (1, U, J), or a flat one."""
    return Sequence(view.matrix.at, view.plane, view.matrix.row)


cdef int _prepare(
    Cache own,
    cell,
    xs,                           # IN (N, T, D), or (U, D) with an index, or (R, D) if packed
    weights,                      # IN (D, G*H), (H, G*H) [, (G*H) or None [, (G*H) or None]]
    states,                       # IN S arrays (N, H), each or all None for zeros
    Py_ssize_t N,
    Py_ssize_t T,
    hs,                           # OUT (N, T, H), or None where they stay with the states
    last,                         # OUT S arrays (N, H)
    index,                        # IN (N, T), int64: rows of xs; this and what follows: or None
    lengths,                      # IN (N), int64
    batch_sizes,                  # IN (T), int64: then hs is (R, H)
    reset,                        # IN (N, T), bool
    bint reverse,
    mask,                         # IN (N, H)
    zoneouts,                     # IN S arrays (N, T, H), or None of one
    bint kept,
    bint copy_xs,                 # unless they stay as they are until backward
    threads,                      # at most, or None
    precision,                    # of products: None, or "bfloat16"
) except -1:
    """Sizes and memory of a forward call."""
    cdef Sizes* s = &own.sizes
    cdef Memory* mem = &own.mem
    cdef View x, Wx, Wh, b, bh
    cdef Py_ssize_t k, columns
    own.begin()
    xs = _rows(xs)
    if kept:                      # backward reads them again
        index, reset = _copied(index), _copied(reset)
    if mask is not None:
        mask = np.ascontiguousarray(mask)
    if zoneouts is not None:
        zoneouts = tuple(map(_rows, zoneouts))
    own.of_call, own.arrays = xs, (index, reset, mask, zoneouts)

    x, Wx, Wh = view_of(xs), view_of(weights[0]), view_of(weights[1])
    b, bh = _view_at(weights, 2), _view_at(weights, 3)
    s[0] = layer_sizes(with_precision(Wh.simd, precision), cell_number(cell.name), cell.S, x.columns, Wh.rows)
    columns = s.groups * s.columns.used
    check_shapes(Wx.simd == Wh.simd == x.simd and Wx.rows == s.D
                 and Wx.columns == Wh.columns == columns
                 and _fits(&b, s, 1, columns) and _fits(&bh, s, 1, columns))
    s.indexed, s.reverse, s.kept = index is not None, reverse, kept
    s.flat, s.most_threads = batch_sizes is not None, most_threads(threads)
    s.N, s.T_all = N, T
    if s.flat:
        _set_flat_steps(own, batch_sizes)
    else:
        _set_steps(own, lengths)
    s.U = x.rows if s.indexed else s.R
    s.enters, s.masked = s.counts != NULL or reset is not None, mask is not None
    _deal_out(s, FLOPS)
    # each step alone reads all of Wx again; and rows of different lengths would get in each other's way
    s.alone = (s.threads > 1 and s.by_rows and (kept or s.counts == NULL)
               and s.D * s.groups * s.P * s.width * s.simd.number < SECOND_LEVEL // 4)
    s.block = min(s.R, BLOCK * s.threads)
    s.rows = s.R if kept else min(s.R, _most_rows(s, s.block))

    mem.xs, mem.b, mem.bh = _sequence(x), b.matrix, bh.matrix
    mem.hs.at = NULL
    if hs is not None:
        mem.hs = _sequence(view_of(hs, True))
    _set_rows(mem.last, s, last)
    mem.resets = NULL
    if s.indexed or reset is not None:
        _look_at(mem, index, reset)
    if s.masked:
        mem.mask = view_of(mask).matrix.at
    for k in range(s.S):
        mem.zoneouts[k].at = NULL
        if zoneouts is not None and zoneouts[k] is not None:
            mem.zoneouts[k] = _sequence(view_of(zoneouts[k]))
            s.zoned = True

    cdef Py_ssize_t number = s.simd.number, panels = s.groups * s.P
    cdef Py_ssize_t x_rows = s.U if s.indexed else s.rows
    cdef Py_ssize_t step = -mem.xs.t if reverse else mem.xs.t
    # where each step has the row behind the last one of the step before
    s.x_stays = (not copy_xs and kept and not s.indexed
                 and (not reverse if s.flat
                      else s.counts == NULL and (N == 1 or step == N * mem.xs.n)))
    if s.x_stays:
        mem.x = Matrix(moved(s.simd, mem.xs.at, (s.T - 1) * mem.xs.t if reverse else 0),
                       mem.xs.n if N > 1 else step, 1)
        own.arrays = (*own.arrays, xs)
    else:
        mem.x = Matrix(own.x.reserve(max(1, x_rows) * s.x_row, number), s.x_row, 1)
    mem.left = _states(own.left, s, s.S, s.N + s.rows)
    mem.made = States(moved(s.simd, mem.left.at, s.N * s.h_row), s.h_row, mem.left.state)
    mem.entering = mem.left
    if s.zoned:
        mem.made = _states(own.made, s, s.S, s.rows)
    if s.enters:
        mem.entering = _states(own.entering, s, s.S, s.rows)
    mem.h_in = _states(own.h_in, s, 1, s.rows) if s.masked else mem.entering
    if s.reset == RESET_BEFORE:
        mem.reset_h = _states(own.reset_h, s, 1, s.rows)
    mem.gates = _panels(own.gates, s, panels, s.rows)
    _weights(own.scratch.weights_x, s, Wx.matrix, s.D, s.U, mem.Wx)
    # every step reads Wh again: packed, it is read faster
    _weights(own.scratch.weights_h, s, Wh.matrix, s.H, s.R if s.T <= FEW_STEPS else MANY_ROWS,
             mem.Wh)
    if s.simd.rounds:
        _forward_operands(own.scratch, s, mem)
    mem.b_panels = _panels(own.scratch.biases, s, 2 * panels, 1)
    mem.bh_panels = from_row(s.simd, mem.b_panels, 0, panels)
    if s.reset == RESET_AFTER:
        mem.hidden = _panels(own.hidden, s, s.P, s.rows)
    if s.indexed:
        mem.projected = _panels(own.scratch.projected, s, panels, s.U)
        mem.used = <unsigned char*> own.used.reserve(s.U, 1)
    # what is written here is read by the backward that may follow an error: by then there is none
    _copy_in(s, &mem.left, states)
    if s.indexed:
        _mark_used(s, mem)
    if s.order != NULL or s.T == 0:
        _keep_initial(s, mem)
    return 0


cdef int _forward_operands(Scratch scratch, const Sizes* s, Memory* mem) except -1:
    """Memory for rounded operands of the products forward."""
    cdef Py_ssize_t number = s.simd.number
    cdef Py_ssize_t rows = s.U if s.indexed else min(s.R, _most_rows(s, s.block))
    mem.x_operand = Matrix(scratch.x_operand.reserve(max(1, rows) * s.x_row, number), s.x_row, 1)
    cdef Py_ssize_t states = 3 if s.reset == RESET_BEFORE else 2
    mem.h_operand = Matrix(scratch.h_operand.reserve(states * s.N * s.h_row, number), s.h_row, 1)
    mem.reset_operand = below(s.simd, mem.h_operand, 2 * s.N)
    return 0


cdef int _look_at(Memory* mem, const int64_t[:, ::1] index, reset) except -1:
    cdef const unsigned char[:, ::1] resets
    if index is not None:
        mem.index, mem.index_row = &index[0, 0], index.shape[1]
    if reset is not None:
        resets = reset.view(np.uint8)
        mem.resets, mem.resets_row = &resets[0, 0], resets.shape[1]
    return 0


cdef void _mark_used(const Sizes* s, const Memory* mem) noexcept:
    """Which rows of x some step uses: what stands in others may be anything."""
    cdef Py_ssize_t t, n
    cdef unsigned char* used = <unsigned char*> mem.used
    memset(used, 0, s.U)
    for t in range(s.T):
        for n in range(count(s, t)):
            used[x_row_of(s, mem, t, n)] = True


cdef int _copy_in(const Sizes* s, const States* states, given) except -1:
    """S arrays (N, H), states or gradients of them, to memory, all or none; zeros where none are
    given."""
    cdef Py_ssize_t k, n, numbers = s.H * s.simd.number
    cdef View views[MOST_STATES]
    memset(views, 0, sizeof(views))
    if given is not None:
        given = tuple(map(_rows, given))
        for k in range(s.S):
            views[k] = _view_at(given, k)
    for k in range(s.S):
        if views[k].simd == NULL:
            memset(state_at(s, states, k, 0, 0), 0, s.N * s.h_row * s.simd.number)
            continue
        for n in range(s.N):
            memcpy(state_at(s, states, k, n, 0),
                   moved(s.simd, views[k].matrix.at, batch_row(s, n) * views[k].matrix.row), numbers)
    return 0


cdef int _set_steps(Cache own, lengths) except -1:
    """The steps of all rows, by lengths (N,) or None."""
    cdef Sizes* s = &own.sizes
    cdef const int64_t[::1] order, falling, counts, firsts
    s.T = s.T_all if lengths is None else lengths.max()
    s.R = s.N * s.T
    s.order = s.lengths = s.counts = s.firsts = NULL
    if lengths is None or lengths.min() == s.T:
        return 0
    by_length = np.argsort(-lengths, kind="stable").astype(np.int64, copy=False)
    lengths = np.ascontiguousarray(lengths[by_length])
    # of step t: the rows that are longer
    rows = np.searchsorted(-lengths, -np.arange(s.T + 1), "left").astype(np.int64, copy=False)
    starts = np.concatenate(([0], np.cumsum(rows)), dtype=np.int64)
    order, falling, counts, firsts = by_length, lengths, rows, starts
    own.of_rows = by_length, lengths, rows, starts
    s.order, s.lengths, s.counts, s.firsts = &order[0], &falling[0], &counts[0], &firsts[0]
    s.R = firsts[s.T]
    return 0


cdef int _set_flat_steps(Cache own, const int64_t[:] batch_sizes) except -1:
    """The steps of all rows, by how many rows each has."""
    cdef Sizes* s = &own.sizes
    cdef Py_ssize_t t, n
    memory = np.empty(s.N + 2 * s.T_all + 1, np.int64)
    cdef int64_t[::1] of_rows = memory
    cdef int64_t* lengths = &of_rows[0]
    cdef int64_t* counts = lengths + s.N
    cdef int64_t* firsts = counts + s.T_all
    s.T = s.T_all
    s.order = s.lengths = s.counts = s.firsts = NULL
    firsts[0] = 0
    for t in range(s.T):
        counts[t], firsts[t + 1] = batch_sizes[t], firsts[t] + batch_sizes[t]
        for n in range(batch_sizes[t]):
            lengths[n] = t + 1
    s.R = firsts[s.T]
    if counts[s.T - 1] < s.N:
        own.of_rows = memory
        s.lengths, s.counts, s.firsts = lengths, counts, firsts
    return 0


cdef void _keep_initial(const Sizes* s, const Memory* mem) noexcept:
    """The states of rows that have no steps are the last ones already."""
    cdef Py_ssize_t k, n
    for n in range(s.N):
        if (s.T if s.lengths == NULL else s.lengths[n]) == 0:
            for k in range(s.S):
                memcpy(row_at(s, &mem.last[k], n, 0), state_at(s, &mem.left, k, n, 0),
                       s.H * s.simd.number)


cdef Py_ssize_t _most_rows(const Sizes* s, Py_ssize_t rows) noexcept:
    """Rows of as many whole steps as fit into so many rows, of one step at least."""
    return max(s.N, rows // s.N * s.N if s.counts == NULL else rows)


cdef int _weights(
    Buffer buffer, const Sizes* s, Matrix W, Py_ssize_t K, Py_ssize_t rows, Weights* weights,
) except -1:
    """The columns of W of every group, to be read where they stand, or packed into a buffer."""
    cdef Py_ssize_t g, numbers = s.P * K * s.width
    cdef void* memory = NULL
    for g in range(s.groups):
        weights[g] = weights_for(s.simd, columns_of_group(s, W, g), K, s.columns, rows)
        if weights[g].packed:
            if memory == NULL:
                memory = buffer.reserve(s.groups * numbers, s.simd.number)
            weights[g].panels = panels_at(s.simd, moved(s.simd, memory, g * numbers), K)
    return 0


cdef inline States _states(Buffer buffer, const Sizes* s, Py_ssize_t S, Py_ssize_t rows) except *:
    """Memory of a buffer for so many states of so many rows."""
    return States(buffer.reserve(S * max(1, rows) * s.h_row, s.simd.number), s.h_row,
                  rows * s.h_row)


cdef inline Panels _panels(
    Buffer buffer, const Sizes* s, Py_ssize_t panels, Py_ssize_t rows,
) except *:
    """Memory of a buffer for so many panels of so many rows."""
    return panels_at(s.simd, buffer.reserve(panels * max(1, rows) * s.width, s.simd.number), rows)


cdef int _finish(Cache own, grads) except -1:
    """Gradients of the initial states, to the caller, and of the weights where no row has a step."""
    cdef const Sizes* s = &own.sizes
    cdef Py_ssize_t k, n
    if s.T == 0:
        for dW in grads:
            if dW is not None:
                dW[...] = 0
    elif own.db_again.at != NULL:
        for k in range(s.groups * s.columns.used):
            memcpy(moved(s.simd, own.db_again.at, k * own.db_again.column),
                   moved(s.simd, own.db.at, k * own.db.column), s.simd.number)
    for k in range(s.S):
        for n in range(s.N):
            memcpy(row_at(s, &own.mem.dfirst[k], n, 0), state_at(s, &own.mem.dstates, k, n, 0),
                   s.H * s.simd.number)
    return 0


# ---------------------------------------------------------------- backward

cdef int _prepare_backward(
    Cache own,                    # which has looked at weights and their gradients
    dhs,                          # IN (N, T, H): gradients arriving at the outputs; None is zeros
    dlast,                        # IN S arrays (N, H): at the last states besides; likewise each
    Py_ssize_t truncate,          # steps between two cuts of the gradient, 0: none
    dxs,                          # OUT (N, T, D), or (U, D) with an index, or None
    dfirst,                       # OUT S arrays (N, H): gradients of the initial states
    threads,                      # at most, or None
) except -1:
    """Sizes and memory of a backward call."""
    own.begin()
    own.of_call = dhs
    cdef Sizes* s = &own.sizes
    cdef Memory* mem = &own.mem
    cdef Py_ssize_t panels = s.groups * s.P, number = s.simd.number
    s.truncate, s.need_dx, s.most_threads = truncate, dxs is not None, most_threads(threads)
    _deal_out(s, 2 * FLOPS)
    s.chunk = min(s.R, _most_rows(s, CHUNK))
    cdef Py_ssize_t chunks = (s.R + s.chunk - 1) // s.chunk if s.R else 1
    if s.firsts != NULL:
        chunks *= 2               # of whole steps: half as long at worst
    cdef Py_ssize_t most_rows = max(s.chunk, s.U if s.indexed else 0, 1)
    s.scratch = max(DX_ROWS * computed(s.inputs),
                    gradient_scratch(s.simd, max(s.D, s.H), most_rows))

    mem.dhs.at, mem.Wx_now, mem.Wh_now = NULL, own.Wx, own.Wh
    if dhs is not None:
        mem.dhs = _sequence(view_of(dhs))
    _set_rows(mem.dfirst, s, dfirst)
    mem.das = _panels(own.scratch.das, s, panels, s.chunk)
    if s.reset == RESET_AFTER:
        mem.das_hidden = _panels(own.scratch.das_hidden, s, s.P, s.chunk)
    if s.indexed:
        mem.das_sum = _panels(own.scratch.das_sum, s, panels, s.U)
    _backward_operands(own.scratch, s, mem)
    mem.WhT = _panels(own.scratch.weights_h, s, s.units.panels, panels * s.width)
    # sums over very many rows keep what rounding takes from them
    cdef Py_ssize_t row = panels * s.width, of_x = (s.D + 1) * row, of_h = (s.H + 1) * row
    cdef Py_ssize_t rest_x = rest_of(1 if s.indexed else chunks, most_rows, of_x)
    cdef Py_ssize_t rest_h = rest_of(chunks, s.chunk, of_h)
    cdef Py_ssize_t rest_das = s.U * row if s.indexed and s.R > MANY_ROWS else 0
    cdef void* sums = own.scratch.sums.reserve(of_x + of_h, number)
    cdef void* rests = own.rests.zeroed(rest_x + rest_h + rest_das, number)
    _sums(s, s.D, own.dWx, own.db, sums, rests if rest_x else NULL, mem.dWx, mem.db)
    sums, rests = moved(s.simd, sums, of_x), moved(s.simd, rests, rest_x)
    _sums(s, s.H, own.dWh, own.dbh, sums, rests if rest_h else NULL, mem.dWh, mem.dbh)
    if s.indexed:
        mem.das_rest = moved(s.simd, rests, rest_h) if rest_das else NULL
    mem.scratch = own.scratch.of_threads.reserve(s.threads * s.scratch, number)
    if s.need_dx:
        mem.WxT = _panels(own.scratch.weights_x, s, s.inputs.panels, panels * s.width)
        mem.dxs = _sequence(view_of(dxs, True))

    # gradients of states, then what zoneout takes of them, and what reaches h_in
    mem.dstates = _states(own.dstates, s, 2 * s.S + 1, s.N)
    mem.zoned = states_from(s, &mem.dstates, s.S * s.N, 0)
    mem.reached = states_from(s, &mem.dstates, 2 * s.S * s.N, 0)
    _copy_in(s, &mem.dstates, dlast)
    return 0


cdef int _backward_operands(Scratch scratch, const Sizes* s, Memory* mem) except -1:
    """Where the gradients of gates stand as operands."""
    cdef Py_ssize_t panels = s.groups * s.P, all_ = panels + s.P, U = s.U if s.indexed else 0
    cdef Py_ssize_t row = s.width // s.simd.products.together  # of a panel
    cdef Py_ssize_t of_rows = all_ * s.chunk * row
    cdef Py_ssize_t of_columns = all_ * words(s.simd, s.chunk) * s.width
    cdef void* rows = NULL
    cdef void* columns = NULL
    if s.simd.rounds:
        rows = scratch.das_rows.reserve(max(1, of_rows + panels * U * row), s.simd.number)
        columns = scratch.das_columns.reserve(
            max(1, of_columns + panels * words(s.simd, U) * s.width), s.simd.number)
    mem.das_rows = panels_as_rows(s.simd, mem.das, rows, s.chunk)
    mem.das_columns = panels_as_operand(s.simd, mem.das, columns, s.chunk)
    mem.das_hidden_rows = panels_as_rows(
        s.simd, mem.das_hidden, moved(s.simd, rows, panels * s.chunk * row), s.chunk)
    mem.das_hidden_columns = panels_as_operand(
        s.simd, mem.das_hidden,
        moved(s.simd, columns, panels * words(s.simd, s.chunk) * s.width), s.chunk)
    mem.das_sum_rows = panels_as_rows(s.simd, mem.das_sum, moved(s.simd, rows, of_rows), U)
    mem.das_sum_columns = panels_as_operand(
        s.simd, mem.das_sum, moved(s.simd, columns, of_columns), U)
    return 0


cdef void _sums(
    const Sizes* s, Py_ssize_t M, Matrix dW, Matrix db, void* memory, void* rest, Sums* of_W,
    Sums* of_b,
) noexcept:
    """Gradients of the columns of a weight of M rows, and of a bias, that have not begun: one for
    each group of gates. That of the bias has the memory behind that of the weight."""
    cdef Py_ssize_t g, numbers = (M + 1) * s.P * s.width, of_one = M * s.P * s.width
    for g in range(s.groups):
        of_W[g] = sums_of(s.simd, s.columns, columns_of_group(s, dW, g), memory, rest, M)
        of_b[g] = sums_of(s.simd, s.columns, columns_of_group(s, db, g), moved(s.simd, memory, of_one),
                          NULL if rest == NULL else moved(s.simd, rest, of_one), 1)
        memory = moved(s.simd, memory, numbers)
        rest = NULL if rest == NULL else moved(s.simd, rest, numbers)


cdef void _deal_out(Sizes* s, double flops) noexcept:
    """How many threads a call of so many flops for each row and number of a weight gets, and what
    each takes a share of: rows of the batch, which never wait for each other, or units, which do in
    every step, so that a step must be worth it. Weights are read in the time that a few rows take,
    if there are fewer."""
    cdef double columns = s.groups * s.columns.used
    s.flops = flops * max(s.R, ROWS) * (s.D + s.H) * columns
    s.threads = threads_for(s.flops, s.most_threads)
    s.by_rows = s.N >= ROWS_WORTH * s.threads
    if not s.by_rows:
        s.threads = min(
            s.threads,
            threads_for(STEPS_WORTH * FLOPS * max(s.N, ROWS) * s.H * columns, s.most_threads))
