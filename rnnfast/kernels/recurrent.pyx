"""Recurrent layers over a block of time steps, forward and backward, for every cell.

What differs between the cells is in simd/cells.h. Here are the time loops:

    forward   a = [x 1] [Wx b]   for all steps at once
              a_t += h_{t-1} Wh;  h_t = cell(a_t)              step by step
    backward  dh_t = dhs_t + da_{t+1} Wh^T;  da_t = cell'(dh_t)  step by step, back
              dWx, db = [x 1]^T da;  dWh = h^T da;  dx = da Wx^T   chunk by chunk

Memory is time-major: all steps together are one matrix of T*N rows, a step is N of them, and
states have T+1 steps, so that step 0 is no special case. Pre-activations, gates and their
gradients stand in panels (P, T*N, width): those of a few units for all gates, side by side. So
storing them is packing them for the weight gradients, and a cell finds its gates in one row.
Backward goes through chunks of steps, so that what it writes last is still in a cache when the
products for all steps of the chunk read it.

Threads take rows of the batch, which never wait for each other between steps, or, where there are
few rows, units, which do. What is done for all steps at once is dealt out by rows, or by rows of
the gradients.

Below the GIL a function takes up to three structs: `Sizes` of the layer, `Memory` of a call, and
`Share`, what one thread does. Memory is untyped there: `Sizes.simd` knows the format.
"""

import numpy as np

from cython.parallel cimport parallel, threadid
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from .engine cimport (
    ROWS, Buffer, Columns, Matrix, Panels, Simd, States, Sums, Walk, Workspace, across, barrier,
    cell_number, check_shapes, columns_of, computed, from_row, gradient, gradient_scratch,
    matrix_of, moved, pack, pack_transposed, padded, panels_at, part, product, real, rest_of,
    row_of, rows_in_panels, rows_of, settle, simd_of, sums_of, team_size, threads_for, units_of,
    zeros,
)

cdef enum:
    CHUNK = 1024                  # rows of gates whose gradients are in memory at a time
    MANY_ROWS = 4096              # that use rows of x: sums of so many are exact
    DX_ROWS = 150                 # of dx before they go to their places
    FIRST_LEVEL = 16384           # bytes of a first-level cache for gates of a step
    SECOND_LEVEL = 2097152        # bytes, about, of a second-level cache
    STEPS_WORTH = 5               # steps that make up for a call of their own
    ROWS_WORTH = 4                # rows of the batch that make up for a thread of their own


ctypedef struct Sizes:
    const Simd* simd
    int cell
    Py_ssize_t S, N, T, D, H
    Py_ssize_t U                  # rows of x, T * N unless an index says which row is used
    Py_ssize_t P, width           # panels of the gates, and their width
    Py_ssize_t x_row, h_row       # lengths of padded rows of x and of states
    Columns columns               # of the gates
    Columns inputs                # of D
    Columns units                 # of H
    Py_ssize_t chunk              # steps of backward whose gradients are in memory at a time
    Py_ssize_t truncate           # steps between two cuts of the gradient, 0: none
    Py_ssize_t scratch            # numbers of scratch memory of a thread in backward
    int threads
    bint by_rows                  # whether threads take rows of the batch, or units
    bint indexed
    bint step_by_step             # whether the input is projected step by step
    bint need_dx


# Of the caller: (N, T, J), J contiguous, or (1, U, J) with an index.
ctypedef struct Sequence:
    void* at
    Py_ssize_t n, t


ctypedef struct Memory:
    Sequence xs, hs               # IN (N, T, D); OUT (N, T, H)
    Sequence dhs, dxs             # IN (N, T, H); OUT (N, T, D)
    Matrix Wx, Wh, b              # IN (D, G*H), (H, G*H), (1, G*H)
    # kept from forward to backward
    Matrix x                      # (U, D + 1): rows of x, time-major, and a 1 at their end
    int64_t* index                # (T*N): rows of x
    States states                 # (S, (T+1)*N, H)
    Panels gates                  # (T*N, G*H)
    # of one call
    Panels projected              # (U, G*H): [x 1] [Wx b]; is `gates` without an index
    Panels Wx_panels              # (D + 1, G*H): Wx, and b below it
    Panels Wh_panels              # (H, G*H)
    Panels WhT, WxT               # (P*width, H), (P*width, D)
    Panels das                    # (chunk*N, G*H): da of the steps of a chunk
    Panels das_sum                # (U, G*H): da summed by row of x, with an index
    void* das_rest                # what rounding took from it, or NULL
    Sums dWx, dWh, db             # OUT (D, G*H), (H, G*H), (1, G*H)
    States dstates                # (S, N, H): gradients of the states
    void* scratch                 # (threads, scratch)


ctypedef struct Range:
    Py_ssize_t begin, end

ctypedef struct Share:
    int threads
    Range rows                    # of the batch
    Range panels                  # of the gates, and so units
    Range outputs                 # panels of h, where it is a product with Wh^T
    Range x_rows, h_rows          # of dWx and db, and of dWh


cdef class Cache(Workspace):
    """What backward needs of forward, and scratch memory of both, kept from call to call."""

    cdef Sizes sizes              # of the last forward that succeeded; N is 0 before there is one
    cdef Buffer x, index, states, gates            # kept for backward
    cdef Buffer weights_x, weights_h               # packed anew by every call
    cdef Buffer projected, das, das_sum, dstates, sums, rests, scratch

    def __cinit__(self):
        self.x, self.index, self.states, self.gates = Buffer(), Buffer(), Buffer(), Buffer()
        self.weights_x, self.weights_h = Buffer(), Buffer()
        self.projected, self.das, self.das_sum = Buffer(), Buffer(), Buffer()
        self.dstates, self.sums, self.rests = Buffer(), Buffer(), Buffer()
        self.scratch = Buffer()


def recurrent_forward(cell, xs, weights, states, *, index=None, cache=None):
    """Run a cell over a block. See `rnnfast.reference.recurrent` for the contract."""
    Wx, Wh, b = weights
    cdef Cache own = cache
    cdef bint single = Wh.itemsize == sizeof(float)
    # the rows of x: (n, t), or the distinct ones, seen as (1, U)
    xs = xs if index is None else xs[None]
    if xs.strides[2] != xs.itemsize:
        xs = np.ascontiguousarray(xs)
    N, T = xs.shape[:2] if index is None else index.shape
    hs = np.empty((N, T, len(Wh)), Wh.dtype)
    last = np.empty((cell.S, N, len(Wh)), Wh.dtype)
    if own is None or not own.take():
        own = Cache()
        own.take()
    try:
        own.sizes.N = 0
        if single:
            _run_forward[float](own, cell_number(cell.name), cell.G, xs, index, Wx, Wh, b, states,
                                hs, last)
        else:
            _run_forward[double](own, cell_number(cell.name), cell.G, xs, index, Wx, Wh, b, states,
                                 hs, last)
    finally:
        own.leave()
    return hs, last, own


def recurrent_backward(
    cell, dhs, dstates, cache, weights, grads, *, truncate=0, need_dx=True
):
    """Gradients of the block. See `rnnfast.reference.recurrent` for the contract."""
    Wx, Wh = weights
    dWx, dWh, db = grads
    cdef Cache own = cache
    cdef bint single = Wh.itemsize == sizeof(float)
    if dhs.strides[2] != dhs.itemsize:
        dhs = np.ascontiguousarray(dhs)
    first = np.empty((cell.S, len(dhs), len(Wh)), Wh.dtype)
    if not own.take():
        raise RuntimeError(
            "backward: another thread is calling this layer; give every thread a layer of its own"
        )
    try:
        if single:
            dxs = _run_backward[float](own, dhs, dstates, Wx, Wh, dWx, dWh, db, truncate, need_dx,
                                       first)
        else:
            dxs = _run_backward[double](own, dhs, dstates, Wx, Wh, dWx, dWh, db, truncate, need_dx,
                                        first)
    finally:
        own.leave()
    return dxs, first


cdef void _deal_out(Sizes* s, double flops) noexcept nogil:
    """How many threads a call of so many flops gets, and of what each takes its share."""
    s.threads = threads_for(flops)
    s.by_rows = s.N >= ROWS_WORTH * s.threads
    if not s.by_rows:
        # units: threads wait for each other in every step, so a step must be worth it
        s.threads = min(s.threads, threads_for(STEPS_WORTH * 2.0 * s.N * s.H * s.columns.used))


cdef Share _share(const Sizes* s, int thread, int threads) noexcept nogil:
    """What is dealt out to one thread."""
    cdef Share share
    share.threads = threads
    share.panels = _range(s.P, 1, thread, threads)
    share.outputs = _range(s.units.panels, 1, thread, threads)
    share.x_rows = _range(s.D + 1, ROWS, thread, threads)
    share.h_rows = _range(s.H, ROWS, thread, threads)
    share.rows = _range(s.N, 1, thread, threads)
    return share


cdef Share _share_of_steps(const Sizes* s, Share share) noexcept nogil:
    """The same in the loop over time: rows of the batch and all units, or units and all rows."""
    if s.by_rows:
        share.panels.begin, share.panels.end = 0, s.P
        share.outputs.begin, share.outputs.end = 0, s.units.panels
    else:
        share.rows.begin, share.rows.end = 0, s.N
    return share


cdef inline Range _range(
    Py_ssize_t n, Py_ssize_t unit, int thread, int threads,
) noexcept nogil:
    return Range(part(n, unit, thread, threads), part(n, unit, thread + 1, threads))


cdef inline void* _row(const Sizes* s, const Sequence* sequence, Py_ssize_t m) noexcept nogil:
    """Where row m, counted as in the memory of the call, stands in an array of the caller."""
    if s.indexed:
        return moved(s.simd, sequence.at, m * sequence.t)
    return moved(s.simd, sequence.at, m % s.N * sequence.n + m // s.N * sequence.t)


cdef inline States _states_from(
    const Sizes* s, const States* states, Py_ssize_t m, Py_ssize_t unit,
) noexcept nogil:
    """States from row m and from a unit on."""
    return States(moved(s.simd, states.at, m * states.row + unit), states.row, states.state)


cdef inline Panels _panels(
    Buffer buffer, const Sizes* s, Py_ssize_t panels, Py_ssize_t rows,
) except *:
    """Memory of a buffer for so many panels of so many rows."""
    return panels_at(s.simd, buffer.reserve(panels * rows * s.width, s.simd.number), rows)


cdef inline Panels _panels_kept(Buffer buffer, const Sizes* s, Py_ssize_t rows) except *:
    """What is in a buffer, of panels of so many rows."""
    return panels_at(s.simd, buffer.reserve(0, s.simd.number), rows)


# ---------------------------------------------------------------- forward

cdef object _run_forward(
    Cache cache,
    int cell,
    Py_ssize_t G,
    const real[:, :, :] xs,       # IN (N, T, D), or (1, U, D) with an index
    const int64_t[:, ::1] index,  # IN (N, T) or None: rows of x
    const real[:, :] Wx,          # IN (D, G*H)
    const real[:, :] Wh,          # IN (H, G*H)
    const real[:] b,              # IN (G*H)
    const real[:, :, :] states,   # IN (S, N, H), or None for zeros
    real[:, :, ::1] hs,           # OUT (N, T, H)
    real[:, :, ::1] last,         # OUT (S, N, H)
):
    cdef const Simd* simd = simd_of(&b[0])
    cdef Py_ssize_t number = sizeof(real), n, t, j, k
    cdef Sizes s
    cdef Memory mem
    s.simd, s.cell, s.indexed = simd, cell, index is not None
    s.S, s.N, s.T, s.H, s.D = last.shape[0], hs.shape[0], hs.shape[1], hs.shape[2], xs.shape[2]
    check_shapes(Wx.shape[0] == s.D and Wh.shape[0] == s.H
                 and Wx.shape[1] == Wh.shape[1] == b.shape[0] == G * s.H)
    s.U = xs.shape[1] if s.indexed else s.N * s.T
    s.width = 4 * simd.lanes
    s.columns = columns_of(G, s.H, simd.lanes)
    s.inputs, s.units = columns_of(1, s.D, simd.lanes), columns_of(1, s.H, simd.lanes)
    s.P = s.columns.panels
    s.x_row, s.h_row = padded(s.D + 1, number), padded(s.H, number)
    _deal_out(&s, 2.0 * s.N * s.T * (s.D + s.H) * s.columns.used)
    s.step_by_step = not s.indexed and _better_step_by_step(&s)

    mem.xs = Sequence(<void*> &xs[0, 0, 0], xs.strides[0] // number, xs.strides[1] // number)
    mem.hs = Sequence(&hs[0, 0, 0], s.T * s.H, s.H)
    mem.Wx, mem.Wh, mem.b = matrix_of(Wx), matrix_of(Wh), row_of(b)
    mem.x = Matrix(cache.x.reserve(s.U * s.x_row, number), s.x_row, 1)
    mem.states = States(cache.states.reserve(s.S * (s.T + 1) * s.N * s.h_row, number), s.h_row,
                        (s.T + 1) * s.N * s.h_row)
    mem.gates = _panels(cache.gates, &s, s.P, s.T * s.N)
    mem.Wx_panels = _panels(cache.weights_x, &s, s.P, s.D + 1)
    mem.Wh_panels = _panels(cache.weights_h, &s, s.P, s.H)
    mem.projected = mem.gates
    if s.indexed:
        mem.projected = _panels(cache.projected, &s, s.P, s.U)
        mem.index = <int64_t*> cache.index.reserve(s.N * s.T, sizeof(int64_t))
        for n in range(s.N):
            for t in range(s.T):
                mem.index[t * s.N + n] = index[n, t]
    cdef real* state
    for k in range(s.S):
        state = <real*> mem.states.at + k * mem.states.state
        memset(state, 0, s.N * s.h_row * number)
        if states is not None:
            for n in range(s.N):
                for j in range(s.H):
                    state[n * s.h_row + j] = states[k, n, j]

    with nogil:
        if s.threads == 1:
            _forward_task(&s, &mem, 0, 1)
        else:
            with parallel(num_threads=s.threads):
                _forward_task(&s, &mem, threadid(), team_size())
    for k in range(s.S):
        state = <real*> mem.states.at + k * mem.states.state + s.T * s.N * s.h_row
        for n in range(s.N):
            memcpy(&last[k, n, 0], state + n * s.h_row, s.H * number)
    cache.sizes = s


cdef void _forward_task(
    const Sizes* s, const Memory* mem, int thread, int threads,
) noexcept nogil:
    """What one thread does."""
    cdef Share share = _share(s, thread, threads)
    cdef Range panels = share.panels, rows = _range(s.U, ROWS, thread, threads)
    cdef void* x
    cdef Py_ssize_t m
    pack(s.simd, mem.Wx, s.D, s.columns, panels.begin, panels.end, mem.Wx_panels)
    pack(s.simd, mem.b, 1, s.columns, panels.begin, panels.end,
         from_row(s.simd, mem.Wx_panels, s.D, 0))
    pack(s.simd, mem.Wh, s.H, s.columns, panels.begin, panels.end, mem.Wh_panels)
    for m in range(rows.begin, rows.end):
        x = moved(s.simd, mem.x.at, m * s.x_row)
        memcpy(x, _row(s, &mem.xs, m), s.D * s.simd.number)
        s.simd.fill(1, 1, moved(s.simd, x, s.D))
    barrier(threads)

    # a = [x 1] [Wx b]
    if not s.step_by_step:
        x = moved(s.simd, mem.x.at, rows.begin * s.x_row)
        product(s.simd, rows.end - rows.begin, computed(s.columns), s.D + 1, rows_of(x, s.x_row),
                mem.Wx_panels, zeros(), from_row(s.simd, mem.projected, rows.begin, 0))
    barrier(threads)
    _forward_steps(s, mem, _share_of_steps(s, share))


cdef void _forward_steps(const Sizes* s, const Memory* mem, Share share) noexcept nogil:
    """a_t += h_{t-1} Wh;  h_t = cell(a_t)"""
    cdef Py_ssize_t per_panel = s.columns.units, last_column = computed(s.columns)
    cdef Py_ssize_t n0 = share.rows.begin, rows = share.rows.end - share.rows.begin
    cdef Py_ssize_t first_unit = min(share.panels.begin * per_panel, s.H)
    cdef Py_ssize_t units = min(share.panels.end * per_panel, s.H) - first_unit
    cdef Py_ssize_t t, p, q, n, m, columns
    # panels whose gates are still in the first-level cache when the cell reads them
    cdef Py_ssize_t at_once = max(s.simd.panels_at_once(rows),
                                  FIRST_LEVEL // (max(rows, 1) * s.width * s.simd.number))
    cdef States before, after
    cdef Panels a
    cdef Walk x, h
    cdef void* out
    for t in range(s.T):
        m = t * s.N + n0
        h = rows_of(moved(s.simd, mem.states.at, m * s.h_row), s.h_row)
        p = share.panels.begin
        while p < share.panels.end:
            q = min(p + at_once, share.panels.end)
            columns = min(last_column, q * s.width) - p * s.width
            a = from_row(s.simd, mem.gates, m, p)
            if s.indexed:
                _gather(s, mem, p, q, m, m + rows)
            if s.step_by_step:
                x = rows_of(moved(s.simd, mem.x.at, m * s.x_row), s.x_row)
                product(s.simd, rows, columns, s.D + 1, x, from_row(s.simd, mem.Wx_panels, 0, p),
                        zeros(), a)
            product(s.simd, rows, columns, s.H, h, from_row(s.simd, mem.Wh_panels, 0, p), a, a)
            while p < q:
                before = _states_from(s, &mem.states, m, p * per_panel)
                after = _states_from(s, &mem.states, m + s.N, p * per_panel)
                s.simd.forward[s.cell](rows, units_of(s.columns, p), a.at, &before, &after)
                a.at = moved(s.simd, a.at, a.panel)
                p += 1
        after = _states_from(s, &mem.states, m + s.N, first_unit)
        for n in range(rows):
            out = moved(s.simd, mem.hs.at, (n0 + n) * mem.hs.n + t * mem.hs.t + first_unit)
            memcpy(out, moved(s.simd, after.at, n * s.h_row), units * s.simd.number)
        if not s.by_rows:
            barrier(share.threads)


cdef bint _better_step_by_step(const Sizes* s) noexcept nogil:
    """Whether the products that could be done for all steps at once are better done step by step:
    where the weights stay in the second-level cache and the gates of all steps would not."""
    cdef Py_ssize_t row = s.P * s.width * s.simd.number
    return s.N >= 12 and s.T * s.N * row > SECOND_LEVEL and (s.D + s.H) * row < SECOND_LEVEL // 2


cdef void _gather(
    const Sizes* s, const Memory* mem, Py_ssize_t first_panel, Py_ssize_t end_panel,
    Py_ssize_t begin, Py_ssize_t end,
) noexcept nogil:
    """The projections of the rows of x that rows `begin` ... of the gates use."""
    cdef Py_ssize_t p, m
    for p in range(first_panel, end_panel):
        for m in range(begin, end):
            memcpy(from_row(s.simd, mem.gates, m, p).at,
                   from_row(s.simd, mem.projected, mem.index[m], p).at, s.width * s.simd.number)


# ---------------------------------------------------------------- backward

cdef object _run_backward(
    Cache cache,
    const real[:, :, :] dhs,      # IN (N, T, H): gradients arriving at the outputs
    const real[:, :, :] dlast,    # IN (S, N, H), or None for zeros: at the last states besides
    const real[:, :] Wx,          # IN (D, G*H)
    const real[:, :] Wh,          # IN (H, G*H)
    real[:, :] dWx,               # OUT (D, G*H)
    real[:, :] dWh,               # OUT (H, G*H)
    real[:] db,                   # OUT (G*H)
    Py_ssize_t truncate,          # steps between two cuts of the gradient, 0: none
    bint need_dx,
    real[:, :, ::1] first,        # OUT (S, N, H): gradients of the initial states
):
    """The gradient of xs, or None."""
    cdef Py_ssize_t number = sizeof(real), n, j, k
    cdef Sizes s = cache.sizes
    cdef Memory mem
    if not (dhs.shape[0] == s.N and dhs.shape[1] == s.T and dhs.shape[2] == s.H == Wh.shape[0]
            and first.shape[0] == s.S and Wx.shape[0] == s.D and number == s.simd.number
            and Wx.shape[1] == Wh.shape[1] == s.columns.used):
        kept = s.N, s.T, s.D, s.H, s.columns.used
        got = dhs.shape[0], dhs.shape[1], Wx.shape[0], dhs.shape[2], Wx.shape[1]
        raise RuntimeError(
            "backward: expected gradients and weights as in the last forward call that succeeded, "
            f"of its dtype, with N, T, D, H, G*H {kept}, got {got} and bytes of a number {number}; "
            "call forward first"
        )
    check_shapes(dWx.shape[0] == s.D and dWh.shape[0] == s.H
                 and dWx.shape[1] == dWh.shape[1] == db.shape[0] == s.columns.used)
    s.truncate, s.need_dx = truncate, need_dx
    _deal_out(&s, 4.0 * s.T * s.N * (s.D + s.H) * s.columns.used)
    s.chunk = min(s.T, max(1, CHUNK // s.N))
    cdef Py_ssize_t rows = s.chunk * s.N, chunks = (s.T + s.chunk - 1) // s.chunk
    cdef Py_ssize_t most_rows = max(rows, s.U if s.indexed else 0)
    s.scratch = max(DX_ROWS * computed(s.inputs),
                    gradient_scratch(s.simd, max(s.D + 1, s.H), most_rows))

    mem.dhs = Sequence(<void*> &dhs[0, 0, 0], dhs.strides[0] // number, dhs.strides[1] // number)
    mem.Wx, mem.Wh = matrix_of(Wx), matrix_of(Wh)
    mem.x = Matrix(cache.x.reserve(0, number), s.x_row, 1)
    mem.states = States(cache.states.reserve(0, number), s.h_row, (s.T + 1) * s.N * s.h_row)
    mem.gates = _panels_kept(cache.gates, &s, s.T * s.N)
    mem.index = <int64_t*> cache.index.reserve(0, number)
    mem.das = _panels(cache.das, &s, s.P, rows)
    mem.WhT = _panels(cache.weights_h, &s, s.units.panels, s.P * s.width)
    # sums over very many rows keep what rounding takes from them
    cdef Py_ssize_t row = s.P * s.width, of_x = (s.D + 1) * row, of_h = s.H * row
    cdef Py_ssize_t rest_x = rest_of(1 if s.indexed else chunks, most_rows, of_x)
    cdef Py_ssize_t rest_h = rest_of(chunks, rows, of_h)
    cdef Py_ssize_t rest_das = s.U * row if s.indexed and s.T * s.N > MANY_ROWS else 0
    cdef void* sums = cache.sums.reserve(of_x + of_h, number)
    cdef void* rests = cache.rests.zeroed(rest_x + rest_h + rest_das, number)
    mem.dWx = sums_of(s.simd, s.columns, matrix_of(dWx), sums, rests if rest_x else NULL, s.D)
    # db has the memory behind that of dWx
    mem.db = sums_of(s.simd, s.columns, row_of(db), moved(s.simd, sums, of_x - row),
                     moved(s.simd, rests, of_x - row) if rest_x else NULL, 1)
    mem.dWh = sums_of(s.simd, s.columns, matrix_of(dWh), moved(s.simd, sums, of_x),
                      moved(s.simd, rests, rest_x) if rest_h else NULL, s.H)
    if s.indexed:
        mem.das_sum = _panels(cache.das_sum, &s, s.P, s.U)
        mem.das_rest = moved(s.simd, rests, rest_x + rest_h) if rest_das else NULL
    mem.dstates = States(cache.dstates.reserve(s.S * s.N * s.h_row, number), s.h_row, s.N * s.h_row)
    mem.scratch = cache.scratch.reserve(s.threads * s.scratch, number)
    cdef real[:, :, ::1] dxs_view
    cdef tuple shape
    dxs = None
    if need_dx:
        mem.WxT = _panels(cache.weights_x, &s, s.inputs.panels, s.P * s.width)
        shape = (1, s.U, s.D)
        if not s.indexed:
            shape = (s.N, s.T, s.D)
        dxs = np.empty(shape, first.base.dtype)
        dxs_view = dxs
        mem.dxs = Sequence(&dxs_view[0, 0, 0], s.T * s.D, s.D)

    cdef real* dstate
    memset(mem.dstates.at, 0, s.S * s.N * s.h_row * number)
    for k in range(s.S):
        dstate = <real*> mem.dstates.at + k * mem.dstates.state
        for n in range(s.N):
            if k == 0:
                memcpy(dstate + n * s.h_row, &dhs[n, s.T - 1, 0], s.H * number)
            if dlast is not None:
                for j in range(s.H):
                    dstate[n * s.h_row + j] += dlast[k, n, j]

    with nogil:
        if s.threads == 1:
            _backward_task(&s, &mem, 0, 1)
        else:
            with parallel(num_threads=s.threads):
                _backward_task(&s, &mem, threadid(), team_size())
    for k in range(s.S):
        dstate = <real*> mem.dstates.at + k * mem.dstates.state
        for n in range(s.N):
            memcpy(&first[k, n, 0], dstate + n * s.h_row, s.H * number)
    return dxs[0] if s.indexed and need_dx else dxs


cdef void _backward_task(
    const Sizes* s, const Memory* mem, int thread, int threads,
) noexcept nogil:
    """What one thread does: chunk after chunk, from the last step to the first."""
    cdef Share share = _share(s, thread, threads), steps = _share_of_steps(s, share)
    cdef Range x_rows = share.x_rows, h_rows = share.h_rows, panels = share.panels
    cdef Range inputs = _range(s.inputs.panels, 1, thread, threads)
    cdef Py_ssize_t begin, end = s.T, m, rows
    cdef Sums dWx = mem.dWx, dWh = mem.dWh, db = mem.db
    cdef Matrix x, h
    cdef void* scratch = moved(s.simd, mem.scratch, thread * s.scratch)

    pack_transposed(s.simd, mem.Wh, s.H, s.columns, share.outputs.begin, share.outputs.end,
                    mem.WhT)
    if s.need_dx:
        pack_transposed(s.simd, mem.Wx, s.D, s.columns, inputs.begin, inputs.end, mem.WxT)
    if s.indexed:
        memset(from_row(s.simd, mem.das_sum, 0, panels.begin).at, 0,
               (panels.end - panels.begin) * mem.das_sum.panel * s.simd.number)
    barrier(threads)
    while end > 0:
        begin = max(0, end - s.chunk)
        m, rows = begin * s.N, (end - begin) * s.N
        _backward_steps(s, mem, steps, begin, end)
        barrier(threads)
        # dWh = h^T da;  dWx, db = [x 1]^T da;  dx = da Wx^T
        h = Matrix(moved(s.simd, mem.states.at, m * s.h_row), s.h_row, 1)
        gradient(s.simd, h_rows.begin, h_rows.end, rows, h, mem.das, dWh, scratch)
        if s.indexed:
            _sum_by_row(s, mem, panels, m, rows)
        else:
            x = Matrix(moved(s.simd, mem.x.at, m * s.x_row), s.x_row, 1)
            _weight_gradients(s, x_rows, rows, x, mem.das, dWx, db, scratch)
            if s.need_dx:
                _input_gradient(s, mem, _range(rows, ROWS, thread, threads), m, mem.das, scratch)
        dWx.begun = dWh.begun = db.begun = True
        end = begin
        barrier(threads)
    if s.indexed:
        _finish_sums(s, mem, panels)
        barrier(threads)
        dWx.begun = db.begun = False
        _weight_gradients(s, x_rows, s.U, mem.x, mem.das_sum, dWx, db, scratch)
        if s.need_dx:
            _input_gradient(s, mem, _range(s.U, ROWS, thread, threads), 0, mem.das_sum, scratch)
    settle(s.simd, h_rows.begin, h_rows.end, dWh)
    settle(s.simd, x_rows.begin, min(x_rows.end, s.D), dWx)
    if x_rows.begin <= s.D < x_rows.end:
        settle(s.simd, 0, 1, db)


cdef void _weight_gradients(
    const Sizes* s, Range x_rows, Py_ssize_t rows, Matrix x, Panels das, Sums dWx, Sums db,
    void* scratch,
) noexcept nogil:
    """dWx, db = [x 1]^T da for rows of [x 1] that belong to rows of the gradients."""
    gradient(s.simd, x_rows.begin, min(x_rows.end, s.D), rows, x, das, dWx, scratch)
    if x_rows.begin <= s.D < x_rows.end:
        gradient(s.simd, 0, 1, rows, Matrix(moved(s.simd, x.at, s.D), x.row, 1), das, db, scratch)


cdef void _backward_steps(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t begin, Py_ssize_t end,
) noexcept nogil:
    """da_t = cell'(dh_t);  dh_{t-1} = dhs_{t-1} + da_t Wh^T"""
    cdef Py_ssize_t per_panel = s.columns.units
    cdef Py_ssize_t n0 = share.rows.begin, rows = share.rows.end - share.rows.begin
    cdef Py_ssize_t first_unit = share.outputs.begin * s.width
    cdef Py_ssize_t units = min(share.outputs.end * s.width, s.H) - first_unit
    cdef Py_ssize_t t, p, m, unit
    cdef States before, after, gradients
    cdef Panels das, init, WhT = from_row(s.simd, mem.WhT, 0, share.outputs.begin)
    cdef Panels dh = rows_in_panels(
        s.simd, moved(s.simd, mem.dstates.at, n0 * s.h_row + first_unit), s.h_row)
    for t in range(end - 1, begin - 1, -1):
        m = t * s.N + n0
        das = from_row(s.simd, mem.das, (t - begin) * s.N + n0, 0)
        for p in range(share.panels.begin, share.panels.end):
            unit = p * per_panel
            before = _states_from(s, &mem.states, m, unit)
            after = _states_from(s, &mem.states, m + s.N, unit)
            gradients = _states_from(s, &mem.dstates, n0, unit)
            s.simd.backward[s.cell](rows, units_of(s.columns, p),
                                    from_row(s.simd, mem.gates, m, p).at, &before, &after,
                                    &gradients, moved(s.simd, das.at, p * das.panel))
        if not s.by_rows:
            barrier(share.threads)
        if t > 0 and s.truncate > 0 and t % s.truncate == 0:
            _cut(s, mem, share, t - 1)
        elif units > 0:
            init = zeros()
            if t > 0:
                init = rows_in_panels(
                    s.simd, moved(s.simd, mem.dhs.at, n0 * mem.dhs.n + (t - 1) * mem.dhs.t
                                  + first_unit), mem.dhs.n)
            product(s.simd, rows, units, s.columns.used, across(s.simd, das), WhT, init, dh)
        if not s.by_rows:
            barrier(share.threads)


cdef void _cut(const Sizes* s, const Memory* mem, Share share, Py_ssize_t t) noexcept nogil:
    """dh_t = dhs_t and, of other states, dc_t = 0: nothing flows in from step t+1."""
    cdef Py_ssize_t n, k, per_panel = s.columns.units
    cdef Py_ssize_t h_begin = share.outputs.begin * s.width
    cdef Py_ssize_t h_units = min(share.outputs.end * s.width, s.H) - h_begin
    cdef Py_ssize_t begin = min(share.panels.begin * per_panel, s.H)
    cdef Py_ssize_t units = min(share.panels.end * per_panel, s.H) - begin
    for n in range(share.rows.begin, share.rows.end):
        if h_units > 0:
            memcpy(_states_from(s, &mem.dstates, n, h_begin).at,
                   moved(s.simd, mem.dhs.at, n * mem.dhs.n + t * mem.dhs.t + h_begin),
                   h_units * s.simd.number)
        for k in range(1, s.S):
            memset(_states_from(s, &mem.dstates, k * s.N + n, begin).at, 0,
                   units * s.simd.number)


cdef void _sum_by_row(
    const Sizes* s, const Memory* mem, Range panels, Py_ssize_t m, Py_ssize_t rows,
) noexcept nogil:
    """Adds da of rows m ... to the sums for the rows of x that they used."""
    cdef Py_ssize_t p, r, place
    cdef void* da
    for p in range(panels.begin, panels.end):
        for r in range(rows):
            da = from_row(s.simd, mem.das, r, p).at
            place = mem.index[m + r] * s.width + p * mem.das_sum.panel
            if mem.das_rest == NULL:
                s.simd.add(s.width, da, moved(s.simd, mem.das_sum.at, place))
            else:
                s.simd.add_exactly(s.width, da, moved(s.simd, mem.das_sum.at, place),
                                   moved(s.simd, mem.das_rest, place))


cdef void _finish_sums(const Sizes* s, const Memory* mem, Range panels) noexcept nogil:
    """Adds what rounding took from the sums by row."""
    cdef Py_ssize_t place = panels.begin * mem.das_sum.panel
    if mem.das_rest != NULL:
        s.simd.add((panels.end - panels.begin) * mem.das_sum.panel,
                   moved(s.simd, mem.das_rest, place), moved(s.simd, mem.das_sum.at, place))


cdef void _input_gradient(
    const Sizes* s, const Memory* mem, Range rows, Py_ssize_t first, Panels das, void* scratch,
) noexcept nogil:
    """dx = da Wx^T for some rows of da, whose row 0 belongs to row `first` of x, by way of a block
    of them in time-major order."""
    cdef Py_ssize_t row = computed(s.inputs), m = rows.begin, n, r
    while m < rows.end:
        n = min(DX_ROWS, rows.end - m)
        product(s.simd, n, row, s.columns.used, across(s.simd, from_row(s.simd, das, m, 0)),
                mem.WxT, zeros(), rows_in_panels(s.simd, scratch, row))
        for r in range(n):
            memcpy(_row(s, &mem.dxs, first + m + r), moved(s.simd, scratch, r * row),
                   s.D * s.simd.number)
        m += n
