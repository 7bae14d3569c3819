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
`Share`, what one thread does. `zeros` is a row of zeros, and tells float from double.
"""

import numpy as np

from cython.parallel cimport parallel, threadid
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from .engine cimport (
    RNNFAST_LSTM, RNNFAST_RNN, Buffer, Columns, Walk, add, barrier, cell_backward, cell_forward, columns_of, computed,
    gradient, gradient_scratch, lanes_of, pack, pack_transposed, padded, panels_at_once, part,
    product, real, rows_of, team_size, threads_for, units_of, unpack,
)

_CELLS = {"rnn": RNNFAST_RNN, "lstm": RNNFAST_LSTM}

cdef enum:
    CHUNK = 1024                  # rows of gates whose gradients are in memory at a time
    DX_ROWS = 150                 # of dx before they go to their places
    SECOND_LEVEL = 2097152        # bytes, about, of a second-level cache
    STEPS_WORTH = 5               # steps that make up for a call of their own
    ROWS_WORTH = 4                # rows of the batch that make up for a thread of their own


ctypedef struct Sizes:
    int cell
    Py_ssize_t S, N, T, D, H
    Py_ssize_t U                  # rows of x, T * N unless an index says which row is used
    Py_ssize_t P, width           # panels of the gates, and their width
    Py_ssize_t number             # bytes of a number
    Py_ssize_t x_row, h_row       # lengths of padded rows of x and of states
    Py_ssize_t state              # distance of the states of a cell, h and c
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


# Arrays of the caller; distances are in numbers.
ctypedef struct Sequence:         # (N, T, J), J contiguous; or (1, U, J) with an index
    void* data
    Py_ssize_t n, t

ctypedef struct Matrix:
    void* data
    Py_ssize_t row, column


ctypedef struct Memory:
    Sequence xs, hs               # IN (N, T, D); OUT (N, T, H)
    Sequence dhs, dxs             # IN (N, T, H); OUT (N, T, D)
    Matrix Wx, Wh, b              # IN (D, G*H), (H, G*H), (1, G*H)
    Matrix dWx, dWh, db           # OUT
    # kept from forward to backward
    void* x                       # (U, x_row): rows of x, time-major, and a 1 at their end
    int64_t* index                # (T*N): rows of x
    void* states                  # (S, T+1, N, h_row)
    void* gates                   # (P, T*N, width)
    # of one call
    void* projected               # (P, U, width): [x 1] [Wx b]; is `gates` without an index
    void* Wx_panels               # (P, D+1, width): Wx, and b below it
    void* Wh_panels               # (P, H, width)
    void* WhT                     # (ceil(H / width), P*width, width)
    void* WxT                     # (ceil(D / width), P*width, width)
    void* das                     # (P, chunk*N, width): da of the steps of a chunk
    void* das_sum                 # (P, U, width): da summed by row of x, with an index
    void* dWx_panels              # (P, D+1, width): dWx, and db below it
    void* dWh_panels              # (P, H, width)
    void* dstates                 # (S, N, h_row): gradients of the states
    void* scratch                 # (threads, scratch)


ctypedef struct Range:
    Py_ssize_t begin, end

ctypedef struct Share:
    int thread, threads
    Range rows                    # of the batch
    Range panels                  # of the gates, and so units
    Range outputs                 # panels of h, where it is a product with Wh^T
    Range x_rows, h_rows          # of dWx and db, and of dWh


cdef class Cache:
    """What backward needs of forward, and scratch memory of both, kept from call to call."""

    cdef Sizes sizes              # of the last forward that succeeded; N is 0 before there is one
    cdef bint busy                # a call of another Python thread uses the memory
    cdef Buffer x, index, states, gates            # kept for backward
    cdef Buffer weights_x, weights_h               # packed anew by every call
    cdef Buffer projected, das, das_sum, dstates, dWx, dWh, scratch, zeros

    def __cinit__(self):
        self.x, self.index, self.states, self.gates = Buffer(), Buffer(), Buffer(), Buffer()
        self.weights_x, self.weights_h = Buffer(), Buffer()
        self.projected, self.das, self.das_sum = Buffer(), Buffer(), Buffer()
        self.dstates, self.dWx, self.dWh = Buffer(), Buffer(), Buffer()
        self.scratch, self.zeros = Buffer(), Buffer()

    cdef bint take(self) noexcept:
        """Whether the memory is now the caller's, who sets `busy` to False at the end.

        Asked and taken without anything in between that could let another Python thread run.
        """
        cdef bint free = not self.busy
        self.busy = True
        return free


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
            _run_forward[float](own, _CELLS[cell.name], cell.G, xs, index, Wx, Wh, b, states, hs,
                                last)
        else:
            _run_forward[double](own, _CELLS[cell.name], cell.G, xs, index, Wx, Wh, b, states, hs,
                                 last)
    finally:
        own.busy = False
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
        own.busy = False
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
    share.thread, share.threads = thread, threads
    share.panels = _range(s.P, 1, thread, threads)
    share.outputs = _range(s.units.panels, 1, thread, threads)
    share.x_rows = _range(s.D + 1, 6, thread, threads)
    share.h_rows = _range(s.H, 6, thread, threads)
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
    cdef Range range_
    range_.begin = part(n, unit, thread, threads)
    range_.end = part(n, unit, thread + 1, threads)
    return range_


cdef inline Matrix _matrix(const real[:, :] W) noexcept nogil:
    cdef Matrix m
    m.data = <void*> &W[0, 0]
    m.row, m.column = W.strides[0] // <Py_ssize_t> sizeof(real), W.strides[1] // sizeof(real)
    return m


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
    cdef Py_ssize_t size = sizeof(real), lanes = lanes_of(&b[0]), n, t, j, k
    cdef Sizes s
    cdef Memory mem
    s.cell, s.indexed = cell, index is not None
    s.S, s.N, s.T, s.H, s.D = last.shape[0], hs.shape[0], hs.shape[1], hs.shape[2], xs.shape[2]
    if not (Wx.shape[0] == s.D and Wh.shape[0] == s.H
            and Wx.shape[1] == Wh.shape[1] == b.shape[0] == G * s.H):
        raise ValueError("weights: expected the shapes that they had when the layer was made, got "
                         "others; do not change the shape of an array of params")
    s.U = xs.shape[1] if s.indexed else s.N * s.T
    s.number, s.width = size, 4 * lanes
    s.columns = columns_of(G, s.H, lanes)
    s.inputs, s.units = columns_of(1, s.D, lanes), columns_of(1, s.H, lanes)
    s.P = s.columns.panels
    s.x_row, s.h_row = padded(s.D + 1, size), padded(s.H, size)
    s.state = (s.T + 1) * s.N * s.h_row
    _deal_out(&s, 2.0 * s.N * s.T * (s.D + s.H) * s.columns.used)
    s.step_by_step = not s.indexed and _better_step_by_step(&s)

    mem.xs.data, mem.hs.data = <void*> &xs[0, 0, 0], <void*> &hs[0, 0, 0]
    mem.xs.n, mem.xs.t = xs.strides[0] // size, xs.strides[1] // size
    mem.hs.n, mem.hs.t = s.T * s.H, s.H
    mem.Wx, mem.Wh = _matrix(Wx), _matrix(Wh)
    mem.b.data, mem.b.row, mem.b.column = <void*> &b[0], 0, b.strides[0] // size
    mem.x = cache.x.reserve(s.U * s.x_row, size)
    mem.states = cache.states.reserve(s.S * s.state, size)
    mem.gates = cache.gates.reserve(s.P * s.T * s.N * s.width, size)
    mem.Wx_panels = cache.weights_x.reserve(s.P * (s.D + 1) * s.width, size)
    mem.Wh_panels = cache.weights_h.reserve(s.P * s.H * s.width, size)
    mem.projected = mem.gates
    if s.indexed:
        mem.projected = cache.projected.reserve(s.P * s.U * s.width, size)
        mem.index = <int64_t*> cache.index.reserve(s.N * s.T, sizeof(int64_t))
        for n in range(s.N):
            for t in range(s.T):
                mem.index[t * s.N + n] = index[n, t]
    cdef real* zeros = <real*> cache.zeros.reserve(s.width, size)
    memset(zeros, 0, s.width * size)
    cdef real* state
    for k in range(s.S):
        state = <real*> mem.states + k * s.state
        memset(state, 0, s.N * s.h_row * size)
        if states is not None:
            for n in range(s.N):
                for j in range(s.H):
                    state[n * s.h_row + j] = states[k, n, j]

    with nogil:
        if s.threads == 1:
            _forward_task(&s, &mem, 0, 1, zeros)
        else:
            with parallel(num_threads=s.threads):
                _forward_task(&s, &mem, threadid(), team_size(), zeros)
    for k in range(s.S):
        state = <real*> mem.states + k * s.state + s.T * s.N * s.h_row
        for n in range(s.N):
            memcpy(&last[k, n, 0], state + n * s.h_row, s.H * size)
    cache.sizes = s


cdef void _forward_task(
    const Sizes* s, const Memory* mem, int thread, int threads, const real* zeros,
) noexcept nogil:
    """What one thread does."""
    cdef Share share = _share(s, thread, threads)
    cdef Range panels = share.panels, rows = _range(s.U, 6, thread, threads)
    cdef real* x = <real*> mem.x
    cdef real* Wx = <real*> mem.Wx_panels
    cdef Py_ssize_t m
    pack(<real*> mem.Wx.data, mem.Wx.row, mem.Wx.column, s.D, s.columns, panels.begin, panels.end,
         Wx, (s.D + 1) * s.width)
    pack(<real*> mem.b.data, mem.b.row, mem.b.column, 1, s.columns, panels.begin, panels.end,
         Wx + s.D * s.width, (s.D + 1) * s.width)
    pack(<real*> mem.Wh.data, mem.Wh.row, mem.Wh.column, s.H, s.columns, panels.begin, panels.end,
         <real*> mem.Wh_panels, s.H * s.width)
    for m in range(rows.begin, rows.end):
        memcpy(x + m * s.x_row, _row(s, &mem.xs, m, zeros), s.D * sizeof(real))
        x[m * s.x_row + s.D] = 1
    barrier(threads)

    # a = [x 1] [Wx b]
    if not s.step_by_step:
        product(rows.end - rows.begin, computed(s.columns), s.D + 1, x + rows.begin * s.x_row,
                rows_of(s.x_row), Wx, (s.D + 1) * s.width, zeros, 0, 0,
                <real*> mem.projected + rows.begin * s.width, s.width, s.U * s.width)
    barrier(threads)
    _forward_steps(s, mem, _share_of_steps(s, share), zeros)


cdef inline real* _row(
    const Sizes* s, const Sequence* sequence, Py_ssize_t m, const real* _,
) noexcept nogil:
    """Where row m, counted as in the memory of the call, stands in an array of the caller."""
    if s.indexed:
        return <real*> sequence.data + m * sequence.t
    return <real*> sequence.data + m % s.N * sequence.n + m // s.N * sequence.t


cdef void _forward_steps(
    const Sizes* s, const Memory* mem, Share share, const real* zeros,
) noexcept nogil:
    """a_t += h_{t-1} Wh;  h_t = cell(a_t)"""
    cdef Py_ssize_t panel = s.T * s.N * s.width, per_panel = s.columns.units
    cdef Py_ssize_t n0 = share.rows.begin, rows = share.rows.end - share.rows.begin
    cdef Py_ssize_t first_unit = min(share.panels.begin * per_panel, s.H)
    cdef Py_ssize_t units = min(share.panels.end * per_panel, s.H) - first_unit
    cdef Py_ssize_t t, p, q, n, m, columns, at_once = panels_at_once(rows, zeros)
    cdef Py_ssize_t last_column = computed(s.columns)
    cdef const real* Wx = <real*> mem.Wx_panels
    cdef const real* Wh = <real*> mem.Wh_panels
    cdef real *h
    cdef real *h_next
    cdef real *a
    for t in range(s.T):
        m = t * s.N + n0
        h = <real*> mem.states + m * s.h_row
        h_next = h + s.N * s.h_row
        p = share.panels.begin
        while p < share.panels.end:
            q = min(p + at_once, share.panels.end)
            columns = min(last_column, q * s.width) - p * s.width
            a = <real*> mem.gates + p * panel + m * s.width
            if s.indexed:
                _gather(s, mem, p, q, m, m + rows, zeros)
            if s.step_by_step:
                product(rows, columns, s.D + 1, <real*> mem.x + m * s.x_row, rows_of(s.x_row),
                        Wx + p * (s.D + 1) * s.width, (s.D + 1) * s.width, zeros, 0, 0,
                        a, s.width, panel)
            product(rows, columns, s.H, h, rows_of(s.h_row), Wh + p * s.H * s.width, s.H * s.width,
                    a, s.width, panel, a, s.width, panel)
            while p < q:
                cell_forward(s.cell, rows, units_of(s.columns, p), a, h + p * per_panel,
                             h_next + p * per_panel, s.h_row, s.state)
                a += panel
                p += 1
        for n in range(rows):
            memcpy(<real*> mem.hs.data + (n0 + n) * mem.hs.n + t * mem.hs.t + first_unit,
                   h_next + n * s.h_row + first_unit, units * sizeof(real))
        if not s.by_rows:
            barrier(share.threads)


cdef bint _better_step_by_step(const Sizes* s) noexcept nogil:
    """Whether the products that could be done for all steps at once are better done step by step:
    where the weights stay in the second-level cache and the gates of all steps would not."""
    cdef Py_ssize_t row = s.P * s.width * s.number
    return s.N >= 12 and s.T * s.N * row > SECOND_LEVEL and (s.D + s.H) * row < SECOND_LEVEL // 2


cdef void _gather(
    const Sizes* s, const Memory* mem, Py_ssize_t first_panel, Py_ssize_t end_panel,
    Py_ssize_t begin, Py_ssize_t end, const real* zeros,
) noexcept nogil:
    """The projections of the rows of x that rows `begin` ... of the gates use."""
    cdef Py_ssize_t p, m
    cdef const real* projected
    cdef real* gates
    for p in range(first_panel, end_panel):
        projected = <real*> mem.projected + p * s.U * s.width
        gates = <real*> mem.gates + p * s.T * s.N * s.width
        for m in range(begin, end):
            memcpy(gates + m * s.width, projected + mem.index[m] * s.width, s.width * sizeof(real))


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
    cdef Py_ssize_t size = sizeof(real), n, j, k
    cdef Sizes s = cache.sizes
    cdef Memory mem
    if not (dhs.shape[0] == s.N and dhs.shape[1] == s.T and dhs.shape[2] == s.H == Wh.shape[0]
            and first.shape[0] == s.S and Wx.shape[0] == s.D and size == s.number
            and Wx.shape[1] == Wh.shape[1] == s.columns.used):
        kept = s.N, s.T, s.D, s.H, s.columns.used, s.number
        got = (dhs.shape[0], dhs.shape[1], Wx.shape[0], dhs.shape[2], Wx.shape[1], size)
        raise RuntimeError(
            "backward: expected gradients and weights as in the last forward call that succeeded, "
            f"N, T, D, H, G*H and bytes of a number {kept}, got {got}; call forward first"
        )
    s.truncate, s.need_dx = truncate, need_dx
    _deal_out(&s, 4.0 * s.T * s.N * (s.D + s.H) * s.columns.used)
    s.chunk = min(s.T, max(1, CHUNK // s.N))
    cdef Py_ssize_t rows = s.chunk * s.N
    s.scratch = max(DX_ROWS * computed(s.inputs),
                    gradient_scratch(max(s.D + 1, s.H), max(rows, s.U if s.indexed else 0), size))

    mem.dhs.data, mem.dhs.n, mem.dhs.t = (
        <void*> &dhs[0, 0, 0], dhs.strides[0] // size, dhs.strides[1] // size)
    mem.Wx, mem.Wh = _matrix(Wx), _matrix(Wh)
    mem.dWx, mem.dWh = _matrix(dWx), _matrix(dWh)
    mem.db.data, mem.db.row, mem.db.column = <void*> &db[0], 0, db.strides[0] // size
    mem.x, mem.states = cache.x.reserve(0, size), cache.states.reserve(0, size)
    mem.gates = cache.gates.reserve(0, size)
    mem.index = <int64_t*> cache.index.reserve(0, size)
    mem.das = cache.das.reserve(s.P * rows * s.width, size)
    if s.indexed:
        mem.das_sum = cache.das_sum.reserve(s.P * s.U * s.width, size)
    mem.WhT = cache.weights_h.reserve(s.units.panels * s.width * s.P * s.width, size)
    mem.dWx_panels = cache.dWx.reserve(s.P * (s.D + 1) * s.width, size)
    mem.dWh_panels = cache.dWh.reserve(s.P * s.H * s.width, size)
    mem.dstates = cache.dstates.reserve(s.S * s.N * s.h_row, size)
    mem.scratch = cache.scratch.reserve(s.threads * s.scratch, size)
    cdef real[:, :, ::1] dxs_view
    dxs = None
    if need_dx:
        mem.WxT = cache.weights_x.reserve(s.inputs.panels * s.width * s.P * s.width, size)
        dxs = np.empty((s.U, s.D), np.float32 if real is float else np.float64)
        dxs_view = dxs[None] if s.indexed else dxs.reshape(s.N, s.T, s.D)
        mem.dxs.data, mem.dxs.n, mem.dxs.t = <void*> &dxs_view[0, 0, 0], s.T * s.D, s.D

    cdef real* zeros = <real*> cache.zeros.reserve(0, size)
    cdef real* dstate
    memset(mem.dstates, 0, s.S * s.N * s.h_row * size)
    for k in range(s.S):
        dstate = <real*> mem.dstates + k * s.N * s.h_row
        for n in range(s.N):
            if k == 0:
                memcpy(dstate + n * s.h_row, &dhs[n, s.T - 1, 0], s.H * size)
            if dlast is not None:
                for j in range(s.H):
                    dstate[n * s.h_row + j] += dlast[k, n, j]

    with nogil:
        if s.threads == 1:
            _backward_task(&s, &mem, 0, 1, zeros)
        else:
            with parallel(num_threads=s.threads):
                _backward_task(&s, &mem, threadid(), team_size(), zeros)
    for k in range(s.S):
        dstate = <real*> mem.dstates + k * s.N * s.h_row
        for n in range(s.N):
            memcpy(&first[k, n, 0], dstate + n * s.h_row, s.H * size)
    return dxs if dxs is None or s.indexed else dxs.reshape(s.N, s.T, s.D)


cdef void _backward_task(
    const Sizes* s, const Memory* mem, int thread, int threads, const real* zeros,
) noexcept nogil:
    """What one thread does: chunk after chunk, from the last step to the first."""
    cdef Share share = _share(s, thread, threads), steps = _share_of_steps(s, share)
    cdef Range x_rows = share.x_rows, h_rows = share.h_rows, panels = share.panels
    cdef Range inputs = _range(s.inputs.panels, 1, thread, threads)
    cdef Py_ssize_t begin, end = s.T, m, rows, panel = s.chunk * s.N * s.width
    cdef Py_ssize_t x_panel = (s.D + 1) * s.width, h_panel = s.H * s.width
    cdef real* das = <real*> mem.das
    cdef real* das_sum = <real*> mem.das_sum
    cdef real* dWx = <real*> mem.dWx_panels
    cdef real* dWh = <real*> mem.dWh_panels
    cdef real* scratch = <real*> mem.scratch + thread * s.scratch
    cdef Py_ssize_t D_end = min(x_rows.end, s.D)

    pack_transposed(<real*> mem.Wh.data, mem.Wh.row, mem.Wh.column, s.H, s.columns,
                    share.outputs.begin, share.outputs.end, <real*> mem.WhT)
    if s.need_dx:
        pack_transposed(<real*> mem.Wx.data, mem.Wx.row, mem.Wx.column, s.D, s.columns,
                        inputs.begin, inputs.end, <real*> mem.WxT)
    if s.indexed:
        memset(das_sum + panels.begin * s.U * s.width, 0,
               (panels.end - panels.begin) * s.U * s.width * sizeof(real))
    barrier(threads)
    while end > 0:
        begin = max(0, end - s.chunk)
        m, rows = begin * s.N, (end - begin) * s.N
        _backward_steps(s, mem, steps, begin, end, zeros)
        barrier(threads)
        # dWh = h^T da;  dWx, db = [x 1]^T da;  dx = da Wx^T
        gradient(h_rows.begin, h_rows.end, computed(s.columns), rows,
                 <real*> mem.states + m * s.h_row, s.h_row, das, panel, end < s.T, dWh, h_panel,
                 scratch, zeros)
        if s.indexed:
            _sum_by_row(s, mem, panels, m, rows, zeros)
        else:
            gradient(x_rows.begin, x_rows.end, computed(s.columns), rows,
                     <real*> mem.x + m * s.x_row, s.x_row, das, panel, end < s.T, dWx, x_panel,
                     scratch, zeros)
            if s.need_dx:
                _input_gradient(s, mem, thread, threads, m, rows, das, panel, scratch, zeros)
        end = begin
        barrier(threads)
    if s.indexed:
        gradient(x_rows.begin, x_rows.end, computed(s.columns), s.U, <real*> mem.x, s.x_row,
                 das_sum, s.U * s.width, False, dWx, x_panel, scratch, zeros)
        if s.need_dx:
            _input_gradient(s, mem, thread, threads, 0, s.U, das_sum, s.U * s.width, scratch,
                            zeros)
    if h_rows.begin < h_rows.end:
        unpack(dWh + h_rows.begin * s.width, h_panel, h_rows.end - h_rows.begin, s.columns,
               <real*> mem.dWh.data + h_rows.begin * mem.dWh.row, mem.dWh.row, mem.dWh.column)
    if x_rows.begin < D_end:
        unpack(dWx + x_rows.begin * s.width, x_panel, D_end - x_rows.begin, s.columns,
               <real*> mem.dWx.data + x_rows.begin * mem.dWx.row, mem.dWx.row, mem.dWx.column)
    if x_rows.begin <= s.D < x_rows.end:
        unpack(dWx + s.D * s.width, x_panel, 1, s.columns, <real*> mem.db.data, mem.db.row,
               mem.db.column)


cdef void _backward_steps(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t begin, Py_ssize_t end,
    const real* zeros,
) noexcept nogil:
    """da_t = cell'(dh_t);  dh_{t-1} = dhs_{t-1} + da_t Wh^T"""
    cdef Py_ssize_t K = s.P * s.width, per_panel = s.columns.units
    cdef Py_ssize_t panel = s.chunk * s.N * s.width, dstate = s.N * s.h_row
    cdef Py_ssize_t n0 = share.rows.begin, rows = share.rows.end - share.rows.begin
    cdef Py_ssize_t first_unit = share.outputs.begin * s.width
    cdef Py_ssize_t units = min(share.outputs.end * s.width, s.H) - first_unit
    cdef Py_ssize_t t, p, m, unit
    cdef real* dh = <real*> mem.dstates + n0 * s.h_row
    cdef const real* gates
    cdef const real* h
    cdef real* da
    cdef const real* init
    cdef Py_ssize_t init_row, init_panel
    cdef Walk walk = _panels_of(s, panel)
    for t in range(end - 1, begin - 1, -1):
        m = t * s.N + n0
        h = <real*> mem.states + m * s.h_row
        gates = <real*> mem.gates + m * s.width
        da = <real*> mem.das + ((t - begin) * s.N + n0) * s.width
        for p in range(share.panels.begin, share.panels.end):
            unit = p * per_panel
            cell_backward(s.cell, rows, units_of(s.columns, p), gates + p * s.T * s.N * s.width,
                          h + unit, h + s.N * s.h_row + unit, dh + unit, da + p * panel, s.h_row,
                          s.state, dstate)
        if not s.by_rows:
            barrier(share.threads)
        if t > 0 and s.truncate > 0 and t % s.truncate == 0:
            _cut(s, mem, share, t - 1, zeros)
        elif units > 0:
            if t > 0:
                init = <real*> mem.dhs.data + n0 * mem.dhs.n + (t - 1) * mem.dhs.t + first_unit
                init_row, init_panel = mem.dhs.n, s.width
            else:
                init = zeros
                init_row = init_panel = 0
            product(rows, units, s.columns.used, da, walk,
                    <real*> mem.WhT + share.outputs.begin * K * s.width, K * s.width, init,
                    init_row, init_panel, dh + first_unit, s.h_row, s.width)
        if not s.by_rows:
            barrier(share.threads)


cdef void _cut(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t t, const real* zeros,
) noexcept nogil:
    """dh_t = dhs_t and, of other states, dc_t = 0: nothing flows in from step t+1."""
    cdef Py_ssize_t n, k, per_panel = s.columns.units
    cdef Py_ssize_t h_begin = share.outputs.begin * s.width
    cdef Py_ssize_t h_units = min(share.outputs.end * s.width, s.H) - h_begin
    cdef Py_ssize_t begin = min(share.panels.begin * per_panel, s.H)
    cdef Py_ssize_t units = min(share.panels.end * per_panel, s.H) - begin
    cdef real* dstates = <real*> mem.dstates
    cdef const real* dhs = <real*> mem.dhs.data
    for n in range(share.rows.begin, share.rows.end):
        if h_units > 0:
            memcpy(dstates + n * s.h_row + h_begin, dhs + n * mem.dhs.n + t * mem.dhs.t + h_begin,
                   h_units * sizeof(real))
        for k in range(1, s.S):
            memset(dstates + (k * s.N + n) * s.h_row + begin, 0, units * sizeof(real))


cdef void _sum_by_row(
    const Sizes* s, const Memory* mem, Range panels, Py_ssize_t m, Py_ssize_t rows,
    const real* zeros,
) noexcept nogil:
    """Adds da of rows m ... to the sums for the rows of x that they used."""
    cdef Py_ssize_t p, r
    cdef const real* das
    cdef real* sums
    for p in range(panels.begin, panels.end):
        das = <real*> mem.das + p * s.chunk * s.N * s.width
        sums = <real*> mem.das_sum + p * s.U * s.width
        for r in range(rows):
            add(s.width, das + r * s.width, sums + mem.index[m + r] * s.width)


cdef void _input_gradient(
    const Sizes* s, const Memory* mem, int thread, int threads, Py_ssize_t first, Py_ssize_t rows,
    const real* das, Py_ssize_t panel, real* scratch, const real* zeros,
) noexcept nogil:
    """dx = da Wx^T for rows `first` ... of x, by way of a block of them in time-major order."""
    cdef Py_ssize_t row = computed(s.inputs), K = s.P * s.width, m, r, n
    cdef Range share = _range(rows, 6, thread, threads)
    m = share.begin
    while m < share.end:
        n = min(DX_ROWS, share.end - m)
        product(n, row, s.columns.used, das + m * s.width, _panels_of(s, panel),
                <real*> mem.WxT, K * s.width, zeros, 0, 0, scratch, row, s.width)
        for r in range(n):
            memcpy(_row(s, &mem.dxs, first + m + r, zeros), scratch + r * row, s.D * sizeof(real))
        m += n


cdef inline Walk _panels_of(const Sizes* s, Py_ssize_t panel) noexcept nogil:
    """A is a matrix in panels (P, rows, width), `panel` apart."""
    cdef Walk walk
    walk.row, walk.tile, walk.k_stride, walk.width, walk.block = (
        s.width, s.width, 1, s.width, panel)
    return walk
