"""Recurrent layers over a block of time steps, forward and backward, for every cell.

What differs between the cells is in simd/cells.h. Here are the time loops:

    forward   a = [x 1] [Wx b]   for all steps at once
              a_t += h_{t-1} Wh;  h_t = cell(a_t)              step by step
    backward  dh_t = dhs_t + da_{t+1} Wh^T;  da_t = cell'(dh_t)  step by step, back
              dWx, db = [x 1]^T da;  dWh = h^T da;  dx = da Wx^T   chunk by chunk

Memory is time-major: all steps together are one matrix of T*N rows, a step is N of them, and
states have T+1 steps, so that step 0 is no special case. Pre-activations, gates and their
gradients stand in panels (P, T*N, W): those of a few units for all gates, side by side. So
storing them is packing them for the weight gradients, and a cell finds its gates in one row.
Backward goes through chunks of steps, so that what it writes last is still in a cache when the
products for all steps of the chunk read it.

Threads take rows of the batch, which never wait for each other between steps, or, where there are
few rows, units, which do. What is done for all steps at once is dealt out by rows, or by rows of
the gradients.
"""

import numpy as np

from cython.parallel cimport parallel, threadid
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from .engine cimport (
    RNNFAST_LSTM, RNNFAST_RNN, Buffer, Columns, Walk, add, barrier, cell_backward, cell_forward,
    columns_of, computed, gradient, gradient_scratch, lanes_of, pack, pack_transposed, padded,
    panels_at_once, part, product, real, rows_of, team_size, threads_for, units_of, unpack,
)

cdef enum:
    CHUNK = 1024                  # rows of gates whose gradients are in memory at a time
    DX_ROWS = 150                 # of dx before they go to their places
    SECOND_LEVEL = 2097152        # bytes, about, of a second-level cache
    STEPS_WORTH = 5               # steps that make up for a call of their own
    ROWS_WORTH = 4                # rows of the batch that make up for a thread of their own


ctypedef struct Layer:
    int cell
    Py_ssize_t N, T, D, H, U      # U: rows of x, T * N unless an index says which row is used
    Py_ssize_t size               # of a number, in bytes
    Py_ssize_t S                  # states of a cell
    Py_ssize_t L, W               # lanes; width of a panel
    Py_ssize_t x_row, h_row       # lengths of padded rows of x and of states
    Py_ssize_t state              # distance of the states of a cell, h and c
    Columns columns               # of the gates
    Columns inputs                # of D
    Columns units                 # of H
    Py_ssize_t scratch            # numbers of scratch memory of a thread in backward
    int threads
    bint by_rows                  # whether threads take rows of the batch, or units
    bint indexed
    bint step_by_step             # whether the input is projected step by step
    Py_ssize_t chunk              # steps of backward whose gradients are in memory at a time
    Py_ssize_t truncate           # steps between two cuts of the gradient, 0: none


cdef class Cache:
    """What backward needs of forward, and scratch memory of both, kept from call to call."""

    cdef Layer layer              # of the last forward that succeeded; N is 0 before there is one
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


def rnn_forward(xs, Wx, Wh, b, h0, *, index=None, cache=None):
    """Run the layer over a block. See `rnnfast.reference.ops.rnn_forward` for the contract."""
    hs, (h,), cache = _forward(RNNFAST_RNN, 1, xs, index, Wx, Wh, b, (h0,), cache)
    return hs, h, cache


def rnn_backward(dhs, dh, cache, Wx, Wh, dWx, dWh, db, *, truncate=0, need_dx=True):
    """Gradients of the block. See `rnnfast.reference.ops.rnn_backward` for the contract."""
    dxs, (dh,) = _backward(dhs, (dh,), cache, Wx, Wh, dWx, dWh, db, truncate, need_dx)
    return dxs, dh


def lstm_forward(xs, Wx, Wh, b, h0, c0, *, index=None, cache=None):
    """Run the layer over a block. See `rnnfast.reference.ops.lstm_forward` for the contract."""
    hs, (h, c), cache = _forward(RNNFAST_LSTM, 4, xs, index, Wx, Wh, b, (h0, c0), cache)
    return hs, h, c, cache


def lstm_backward(dhs, dh, dc, cache, Wx, Wh, dWx, dWh, db, *, truncate=0, need_dx=True):
    """Gradients of the block. See `rnnfast.reference.ops.lstm_backward` for the contract."""
    dxs, (dh, dc) = _backward(dhs, (dh, dc), cache, Wx, Wh, dWx, dWh, db, truncate, need_dx)
    return dxs, dh, dc


def _forward(cell, gates, xs, index, Wx, Wh, b, states, cache):
    """The arguments as a layer hands them over -> hs, last states, cache."""
    index = None if index is None else np.ascontiguousarray(index.T, np.int64)
    N, T = xs.shape[:2] if index is None else index.shape[::-1]
    hs = np.empty((N, T, Wh.shape[0]), Wh.dtype)
    last = [np.empty((N, Wh.shape[0]), Wh.dtype) for _ in states]
    cdef Cache own = cache
    if own is None or own.busy:
        own = Cache()
    # the rows of x: (n, t), or the distinct ones, seen as (1, U)
    xs = xs if index is None else xs[None]
    if xs.strides[2] != xs.itemsize:
        xs = np.ascontiguousarray(xs)
    own.busy, own.layer.N = True, 0
    try:
        _run_forward(cell, gates, xs, index, Wx, Wh, b, *(states * 2)[:2], own, hs,
                     *(last * 2)[:2])
    finally:
        own.busy = False
    return hs, last, own


def _backward(dhs, dstates, cache, Wx, Wh, dWx, dWh, db, truncate, need_dx):
    """The arguments as a layer hands them over -> dx or None, gradients of the first states."""
    cdef Cache own = cache
    if own.busy:
        raise RuntimeError(
            "backward: another thread is calling this layer; give every thread a layer of its own"
        )
    cdef Layer s = own.layer
    kept = (s.N, s.T, s.D, s.H, s.columns.used, s.size)
    if kept != (*dhs.shape[:2], *Wx.shape[:1], *Wh.shape, Wh.itemsize):
        raise RuntimeError(
            "backward: expected gradients and weights as in the last forward call that succeeded, "
            f"N, T, D, H, G*H and bytes of a number {kept}, got dhs {dhs.shape}, Wx {Wx.shape}, "
            f"Wh {Wh.shape} and {Wh.dtype}; call forward first"
        )
    if dhs.strides[2] != dhs.itemsize:
        dhs = np.ascontiguousarray(dhs)
    first = [np.empty(dh.shape, dh.dtype) for dh in dstates]
    own.busy = True
    try:
        dxs = _run_backward(
            own, dhs, *(dstates * 2)[:2], Wx, Wh, dWx, dWh, db, truncate, need_dx,
            *(first * 2)[:2]
        )
    finally:
        own.busy = False
    return dxs, first


cdef void _deal_out(Layer* s, double flops) noexcept nogil:
    """How many threads a call of so many flops gets, and of what each takes its share."""
    s.threads = threads_for(flops)
    s.by_rows = s.N >= ROWS_WORTH * s.threads
    if not s.by_rows:
        # units: threads wait for each other in every step, so a step must be worth it
        s.threads = min(s.threads, threads_for(STEPS_WORTH * 2.0 * s.N * s.H * s.columns.used))


# ---------------------------------------------------------------- forward

def _run_forward(
    int cell,
    Py_ssize_t G,
    const real[:, :, :] xs,       # IN (N, T, D), or (1, U, D) with an index
    const int64_t[:, ::1] index,  # IN (T, N) or None: rows of x
    const real[:, :] Wx,          # IN (D, G * H)
    const real[:, :] Wh,          # IN (H, G * H)
    const real[:] b,              # IN (G * H)
    const real[:, :] h0,          # IN (N, H)
    const real[:, :] c0,          # IN (N, H); h0 again where there is no cell state
    Cache cache,
    real[:, :, ::1] hs,           # OUT (N, T, H)
    real[:, ::1] h_last,          # OUT (N, H)
    real[:, ::1] c_last,          # OUT (N, H)
):
    cdef Py_ssize_t size = sizeof(real)
    cdef Layer s
    s.cell, s.indexed = cell, index is not None
    s.N, s.T, s.H, s.D = hs.shape[0], hs.shape[1], hs.shape[2], xs.shape[2]
    s.U = xs.shape[1] if s.indexed else s.N * s.T
    s.size = size
    s.S = 2 if cell == RNNFAST_LSTM else 1
    s.L = lanes_of(&b[0])
    s.W = 4 * s.L
    s.columns = columns_of(G, s.H, s.L)
    s.inputs, s.units = columns_of(1, s.D, s.L), columns_of(1, s.H, s.L)
    s.x_row, s.h_row = padded(s.D + 1, size), padded(s.H, size)
    s.state = (s.T + 1) * s.N * s.h_row
    _deal_out(&s, 2.0 * s.N * s.T * (s.D + s.H) * s.columns.used)
    s.step_by_step = not s.indexed and _better_step_by_step(s, size)

    cdef Py_ssize_t P = s.columns.panels
    cdef real* x = <real*> cache.x.reserve(s.U * s.x_row, size)
    cdef real* states = <real*> cache.states.reserve(s.S * s.state, size)
    cdef real* gates = <real*> cache.gates.reserve(P * s.T * s.N * s.W, size)
    cdef real* projected = gates
    if s.indexed:
        projected = <real*> cache.projected.reserve(P * s.U * s.W, size)
    cdef real* Wx_p = <real*> cache.weights_x.reserve(P * (s.D + 1) * s.W, size)
    cdef real* Wh_p = <real*> cache.weights_h.reserve(P * s.H * s.W, size)
    cdef real* zeros = <real*> cache.zeros.reserve(max(s.W, s.h_row), size)
    cdef int64_t* rows = NULL
    cdef Py_ssize_t n, j
    if s.indexed:
        rows = <int64_t*> cache.index.reserve(s.N * s.T, sizeof(int64_t))
        memcpy(rows, &index[0, 0], s.N * s.T * sizeof(int64_t))
    memset(zeros, 0, max(s.W, s.h_row) * size)
    memset(states, 0, s.N * s.h_row * size)
    memset(states + (s.S - 1) * s.state, 0, s.N * s.h_row * size)
    for n in range(s.N):
        for j in range(s.H):
            states[n * s.h_row + j] = h0[n, j]
            if s.S == 2:
                states[s.state + n * s.h_row + j] = c0[n, j]

    with nogil:
        if s.threads == 1:
            _forward_task(s, 0, 1, xs, Wx, Wh, b, hs, x, rows, states, gates, projected, Wx_p,
                          Wh_p, zeros)
        else:
            with parallel(num_threads=s.threads):
                _forward_task(s, threadid(), team_size(), xs, Wx, Wh, b, hs, x, rows, states,
                              gates, projected, Wx_p, Wh_p, zeros)
    cache.layer = s
    states += s.T * s.N * s.h_row
    for n in range(s.N):
        for j in range(s.H):
            h_last[n, j] = states[n * s.h_row + j]
            if s.S == 2:
                c_last[n, j] = states[s.state + n * s.h_row + j]


cdef void _forward_task(
    Layer s, int thread, int threads, const real[:, :, :] xs, const real[:, :] Wx,
    const real[:, :] Wh, const real[:] b, real[:, :, ::1] hs,
    real* x,                      # OUT (U, x_row): rows of x, time-major, and a 1 at their end
    const int64_t* index,         # IN (T * N) or NULL
    real* states,                 # INOUT (S, T+1, N, h_row): the first step, then written
    real* gates,                  # OUT (P, T * N, W)
    real* projected,              # OUT (P, U, W); is `gates` without an index
    real* Wx_p,                   # OUT (P, D + 1, W): Wx, and b below it
    real* Wh_p,                   # OUT (P, H, W)
    const real* zeros,            # IN (W)
) noexcept nogil:
    """The share of one thread."""
    cdef Py_ssize_t size = sizeof(real), P = s.columns.panels
    cdef Py_ssize_t p0 = part(P, 1, thread, threads), p1 = part(P, 1, thread + 1, threads)
    cdef Py_ssize_t m0 = part(s.U, 6, thread, threads), m1 = part(s.U, 6, thread + 1, threads)
    cdef Py_ssize_t m, n0 = 0, n1 = s.N

    pack(&Wx[0, 0], Wx.strides[0] // size, Wx.strides[1] // size, s.D, s.columns, p0, p1, Wx_p,
         (s.D + 1) * s.W)
    pack(&b[0], 0, b.strides[0] // size, 1, s.columns, p0, p1, Wx_p + s.D * s.W,
         (s.D + 1) * s.W)
    pack(&Wh[0, 0], Wh.strides[0] // size, Wh.strides[1] // size, s.H, s.columns, p0, p1, Wh_p,
         s.H * s.W)
    for m in range(m0, m1):
        if s.indexed:
            memcpy(x + m * s.x_row, &xs[0, m, 0], s.D * size)
        else:
            memcpy(x + m * s.x_row, &xs[m % s.N, m // s.N, 0], s.D * size)
        x[m * s.x_row + s.D] = 1
    barrier(threads)

    # a = [x 1] [Wx b]
    if not s.step_by_step:
        product(m1 - m0, computed(s.columns), s.D + 1, x + m0 * s.x_row, rows_of(s.x_row),
                Wx_p, (s.D + 1) * s.W, zeros, 0, 0, projected + m0 * s.W, s.W, s.U * s.W)
    barrier(threads)
    if s.by_rows:
        p0, p1 = 0, P
        n0, n1 = part(s.N, 1, thread, threads), part(s.N, 1, thread + 1, threads)
    _forward_steps(s, threads, n0, n1, p0, p1, x, index, states, gates,
                   projected, Wx_p, Wh_p, zeros, hs)


cdef void _forward_steps(
    Layer s, int threads,
    Py_ssize_t n0, Py_ssize_t n1,                  # rows of the batch, n0 ... n1 - 1
    Py_ssize_t p0, Py_ssize_t p1,                  # panels, and so units
    const real* x, const int64_t* index, real* states, real* gates, const real* projected,
    const real* Wx_p, const real* Wh_p, const real* zeros, real[:, :, ::1] hs,
) noexcept nogil:
    """a_t += h_{t-1} Wh;  h_t = cell(a_t)"""
    cdef Py_ssize_t size = sizeof(real), TN = s.T * s.N, per_panel = s.columns.units
    cdef Py_ssize_t t, p, q, n, at_once = panels_at_once(n1 - n0, states)
    cdef Py_ssize_t u0 = min(p0 * per_panel, s.H), u1 = min(p1 * per_panel, s.H)
    cdef real *h
    cdef real *h_next
    cdef real *a
    for t in range(s.T):
        h = states + (t * s.N + n0) * s.h_row
        h_next = h + s.N * s.h_row
        p = p0
        while p < p1:
            q = min(p + at_once, p1)
            a = gates + p * TN * s.W + (t * s.N + n0) * s.W
            if s.indexed:
                _gather(s, p, q, t * s.N + n0, t * s.N + n1, index, projected, gates)
            if s.step_by_step:
                product(n1 - n0, min(computed(s.columns), q * s.W) - p * s.W, s.D + 1,
                        x + (t * s.N + n0) * s.x_row, rows_of(s.x_row),
                        Wx_p + p * (s.D + 1) * s.W, (s.D + 1) * s.W, zeros, 0, 0,
                        a, s.W, TN * s.W)
            product(n1 - n0, min(computed(s.columns), q * s.W) - p * s.W, s.H, h, rows_of(s.h_row),
                    Wh_p + p * s.H * s.W, s.H * s.W, a, s.W, TN * s.W, a, s.W, TN * s.W)
            while p < q:
                cell_forward(s.cell, n1 - n0, units_of(s.columns, p),
                             gates + p * TN * s.W + (t * s.N + n0) * s.W, h + p * per_panel,
                             h_next + p * per_panel, s.h_row, s.state)
                p += 1
        for n in range(n0, n1):
            memcpy(&hs[n, t, u0], h_next + (n - n0) * s.h_row + u0, (u1 - u0) * size)
        if not s.by_rows:
            barrier(threads)


cdef bint _better_step_by_step(Layer s, Py_ssize_t size) noexcept nogil:
    """Whether the products that could be done for all steps at once are better done step by step:
    where the weights stay in the second-level cache and the gates of all steps would not."""
    cdef Py_ssize_t columns = s.columns.panels * s.W
    return s.N >= 12 and s.T * s.N * columns * size > SECOND_LEVEL and (
        (s.D + s.H) * columns * size < SECOND_LEVEL // 2)


cdef void _gather(
    Layer s, Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t m0, Py_ssize_t m1, const int64_t* index,
    const real* projected, real* gates,
) noexcept nogil:
    """The projections of the rows of x that rows m0 ... m1 - 1 use."""
    cdef Py_ssize_t p, m
    for p in range(p0, p1):
        for m in range(m0, m1):
            memcpy(gates + (p * s.T * s.N + m) * s.W, projected + (p * s.U + index[m]) * s.W,
                   s.W * sizeof(real))


# ---------------------------------------------------------------- backward

def _run_backward(
    Cache cache,
    const real[:, :, :] dhs,      # IN (N, T, H): gradients arriving at the outputs
    const real[:, :] dh,          # IN (N, H): at the last state besides
    const real[:, :] dc,          # IN (N, H); dh again where there is no cell state
    const real[:, :] Wx,          # IN (D, G * H)
    const real[:, :] Wh,          # IN (H, G * H)
    real[:, :] dWx,               # OUT (D, G * H)
    real[:, :] dWh,               # OUT (H, G * H)
    real[:] db,                   # OUT (G * H)
    Py_ssize_t truncate,          # steps between two cuts of the gradient, 0: none
    bint need_dx,
    real[:, ::1] dh0,             # OUT (N, H)
    real[:, ::1] dc0,             # OUT (N, H)
):
    cdef Py_ssize_t size = sizeof(real), n, j
    cdef Layer s = cache.layer
    cdef Py_ssize_t P = s.columns.panels, TN = s.T * s.N
    s.truncate = truncate
    _deal_out(&s, 4.0 * TN * (s.D + s.H) * s.columns.used)
    cdef real* x = <real*> cache.x.reserve(0, size)
    cdef real* states = <real*> cache.states.reserve(0, size)
    cdef real* gates = <real*> cache.gates.reserve(0, size)
    cdef real* zeros = <real*> cache.zeros.reserve(0, size)
    cdef int64_t* index = <int64_t*> cache.index.reserve(0, size)
    s.chunk = min(s.T, max(1, CHUNK // s.N))
    cdef Py_ssize_t rows = s.chunk * s.N
    cdef real* das = <real*> cache.das.reserve(P * rows * s.W, size)
    cdef real* das_sum = NULL
    if s.indexed:
        das_sum = <real*> cache.das_sum.reserve(P * s.U * s.W, size)
    cdef real* WhT = <real*> cache.weights_h.reserve(s.units.panels * s.W * P * s.W, size)
    cdef real* WxT = <real*> cache.weights_x.reserve(s.inputs.panels * s.W * P * s.W, size)
    cdef real* dstates = <real*> cache.dstates.reserve(s.S * s.N * s.h_row, size)
    cdef real* dWx_p = <real*> cache.dWx.reserve(P * (s.D + 1) * s.W, size)
    cdef real* dWh_p = <real*> cache.dWh.reserve(P * s.H * s.W, size)
    s.scratch = max(DX_ROWS * computed(s.inputs),
                    gradient_scratch(max(s.D + 1, s.H), max(rows, s.U if s.indexed else 0), size))
    cdef real* scratch = <real*> cache.scratch.reserve(s.threads * s.scratch, size)
    out = None
    if need_dx:
        out = np.empty((s.U, s.D), np.float32 if real is float else np.float64)
        out = out[None] if s.indexed else out.reshape(s.N, s.T, s.D)
    cdef real[:, :, ::1] dxs = out
    memset(dstates, 0, s.S * s.N * s.h_row * size)
    for n in range(s.N):
        for j in range(s.H):
            dstates[n * s.h_row + j] = dhs[n, s.T - 1, j] + dh[n, j]
            if s.S == 2:
                dstates[(s.N + n) * s.h_row + j] = dc[n, j]

    with nogil:
        if s.threads == 1:
            _backward_task(s, 0, 1, dhs, Wx, Wh, dWx, dWh, db, dxs, x, index, states, gates, das,
                           das_sum, WhT, WxT, dWx_p, dWh_p, dstates, scratch, zeros)
        else:
            with parallel(num_threads=s.threads):
                _backward_task(s, threadid(), team_size(), dhs, Wx, Wh, dWx, dWh, db, dxs, x,
                               index, states, gates, das, das_sum, WhT, WxT, dWx_p, dWh_p,
                               dstates, scratch, zeros)
    for n in range(s.N):
        for j in range(s.H):
            dh0[n, j] = dstates[n * s.h_row + j]
            if s.S == 2:
                dc0[n, j] = dstates[(s.N + n) * s.h_row + j]
    return out[0] if need_dx and s.indexed else out


cdef void _backward_task(
    Layer s, int thread, int threads, const real[:, :, :] dhs, const real[:, :] Wx,
    const real[:, :] Wh, real[:, :] dWx, real[:, :] dWh, real[:] db,
    real[:, :, ::1] dxs,          # OUT (N, T, D), or (1, U, D) with an index, or None
    const real* x, const int64_t* index, const real* states, const real* gates,
    real* das,                    # OUT (P, chunk * N, W): da of the steps of a chunk
    real* das_sum,                # OUT (P, U, W): da summed by row of x, or NULL without an index
    real* WhT,                    # OUT panels of Wh^T, (ceil(H / W), P * W, W)
    real* WxT,                    # OUT panels of Wx^T, (ceil(D / W), P * W, W)
    real* dWx_p,                  # OUT (P, D + 1, W): dWx, and db below it
    real* dWh_p,                  # OUT (P, H, W)
    real* dstates,                # INOUT (S, N, h_row): gradients of the states
    real* scratch,                # (threads, scratch)
    const real* zeros,
) noexcept nogil:
    """The share of one thread: chunk after chunk, from the last step to the first."""
    cdef Py_ssize_t size = sizeof(real), P = s.columns.panels, t0, t1 = s.T, m, rows
    cdef Py_ssize_t p0 = part(P, 1, thread, threads), p1 = part(P, 1, thread + 1, threads)
    cdef Py_ssize_t q0 = part(s.units.panels, 1, thread, threads)
    cdef Py_ssize_t q1 = part(s.units.panels, 1, thread + 1, threads)
    cdef Py_ssize_t d0 = part(s.D + 1, 6, thread, threads)
    cdef Py_ssize_t d1 = part(s.D + 1, 6, thread + 1, threads)
    cdef Py_ssize_t h0 = part(s.H, 6, thread, threads), h1 = part(s.H, 6, thread + 1, threads)
    cdef Py_ssize_t panel = s.chunk * s.N * s.W
    scratch += thread * s.scratch

    pack_transposed(&Wh[0, 0], Wh.strides[0] // size, Wh.strides[1] // size, s.H, s.columns,
                    q0, q1, WhT)
    if dxs is not None:
        pack_transposed(&Wx[0, 0], Wx.strides[0] // size, Wx.strides[1] // size, s.D, s.columns,
                        part(s.inputs.panels, 1, thread, threads),
                        part(s.inputs.panels, 1, thread + 1, threads), WxT)
    if s.indexed:
        memset(das_sum + p0 * s.U * s.W, 0, (p1 - p0) * s.U * s.W * size)
    barrier(threads)
    while t1 > 0:
        t0 = max(0, t1 - s.chunk)
        m, rows = t0 * s.N, (t1 - t0) * s.N
        if s.by_rows:
            _backward_steps(s, threads, t0, t1, part(s.N, 1, thread, threads),
                            part(s.N, 1, thread + 1, threads), 0, P, 0, s.units.panels, dhs,
                            states, gates, das, WhT, dstates, zeros)
        else:
            _backward_steps(s, threads, t0, t1, 0, s.N, p0, p1, q0, q1, dhs, states, gates, das,
                            WhT, dstates, zeros)
        barrier(threads)
        # dWh = h^T da;  dWx, db = [x 1]^T da;  dx = da Wx^T
        gradient(h0, h1, computed(s.columns), rows, states + m * s.h_row, s.h_row, das, panel,
                 t1 < s.T, dWh_p, s.H * s.W, scratch, zeros)
        if s.indexed:
            _sum_by_row(s, p0, p1, m, rows, index, das, das_sum)
        else:
            gradient(d0, d1, computed(s.columns), rows, x + m * s.x_row, s.x_row, das, panel,
                     t1 < s.T, dWx_p, (s.D + 1) * s.W, scratch, zeros)
            if dxs is not None:
                _input_gradient(s, thread, threads, m, rows, das, panel, WxT, zeros, scratch, dxs)
        t1 = t0
        barrier(threads)
    if s.indexed:
        gradient(d0, d1, computed(s.columns), s.U, x, s.x_row, das_sum, s.U * s.W, False, dWx_p,
                 (s.D + 1) * s.W, scratch, zeros)
        if dxs is not None:
            _input_gradient(s, thread, threads, 0, s.U, das_sum, s.U * s.W, WxT, zeros, scratch,
                            dxs)
    if h0 < h1:
        unpack(dWh_p + h0 * s.W, s.H * s.W, h1 - h0, s.columns, &dWh[h0, 0],
               dWh.strides[0] // size, dWh.strides[1] // size)
    if d0 < min(d1, s.D):
        unpack(dWx_p + d0 * s.W, (s.D + 1) * s.W, min(d1, s.D) - d0, s.columns, &dWx[d0, 0],
               dWx.strides[0] // size, dWx.strides[1] // size)
    if d0 <= s.D < d1:
        unpack(dWx_p + s.D * s.W, (s.D + 1) * s.W, 1, s.columns, &db[0], 0,
               db.strides[0] // size)


cdef void _backward_steps(
    Layer s, int threads, Py_ssize_t t0, Py_ssize_t t1, Py_ssize_t n0, Py_ssize_t n1,
    Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t q0, Py_ssize_t q1, const real[:, :, :] dhs,
    const real* states, const real* gates, real* das, const real* WhT, real* dstates,
    const real* zeros,
) noexcept nogil:
    """da_t = cell'(dh_t);  dh_{t-1} = dhs_{t-1} + da_t Wh^T"""
    cdef Py_ssize_t size = sizeof(real), TN = s.T * s.N, K = s.columns.panels * s.W
    cdef Py_ssize_t per_panel = s.columns.units, panel = s.chunk * s.N * s.W
    cdef Py_ssize_t t, p, row
    cdef real* da
    cdef Py_ssize_t columns = min(q1 * s.W, s.H) - q0 * s.W
    cdef const real* init
    cdef Py_ssize_t init_row, init_panel
    cdef real* dh = dstates + n0 * s.h_row
    cdef Walk walk = _panels_of(s, panel)
    for t in range(t1 - 1, t0 - 1, -1):
        row = t * s.N + n0
        da = das + ((t - t0) * s.N + n0) * s.W
        for p in range(p0, p1):
            cell_backward(s.cell, n1 - n0, units_of(s.columns, p), gates + (p * TN + row) * s.W,
                          states + row * s.h_row + p * per_panel,
                          states + (row + s.N) * s.h_row + p * per_panel, dh + p * per_panel,
                          da + p * panel, s.h_row, s.state, s.N * s.h_row)
        if not s.by_rows:
            barrier(threads)
        if t > 0 and s.truncate > 0 and t % s.truncate == 0:
            _cut(s, n0, n1, p0, p1, q0, columns, dhs, t - 1, dstates)
        elif columns > 0:
            if t > 0:
                init, init_row = &dhs[n0, t - 1, q0 * s.W], dhs.strides[0] // size
                init_panel = s.W
            else:
                init = zeros
                init_row = init_panel = 0
            product(n1 - n0, columns, s.columns.used, da, walk,
                    WhT + q0 * K * s.W, K * s.W, init, init_row, init_panel, dh + q0 * s.W,
                    s.h_row, s.W)
        if not s.by_rows:
            barrier(threads)


cdef void _cut(
    Layer s, Py_ssize_t n0, Py_ssize_t n1, Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t q0,
    Py_ssize_t columns, const real[:, :, :] dhs, Py_ssize_t t, real* dstates,
) noexcept nogil:
    """dh_t = dhs_t and, of a cell state, dc_t = 0: nothing flows in from step t+1."""
    cdef Py_ssize_t n, per_panel = s.columns.units
    cdef Py_ssize_t u0 = min(p0 * per_panel, s.H), u1 = min(p1 * per_panel, s.H)
    for n in range(n0, n1):
        if columns > 0:
            memcpy(dstates + n * s.h_row + q0 * s.W, &dhs[n, t, q0 * s.W], columns * sizeof(real))
        if s.S == 2:
            memset(dstates + (s.N + n) * s.h_row + u0, 0, (u1 - u0) * sizeof(real))


cdef void _sum_by_row(
    Layer s, Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t m0, Py_ssize_t rows, const int64_t* index,
    const real* das, real* das_sum,
) noexcept nogil:
    """Adds da of rows m0 ... to the sums for the rows of x that they used."""
    cdef Py_ssize_t p, m
    for p in range(p0, p1):
        for m in range(rows):
            add(s.W, das + (p * s.chunk * s.N + m) * s.W,
                das_sum + (p * s.U + index[m0 + m]) * s.W)


cdef void _input_gradient(
    Layer s, int thread, int threads, Py_ssize_t first, Py_ssize_t rows, const real* das,
    Py_ssize_t panel, const real* WxT, const real* zeros, real* scratch, real[:, :, ::1] dxs,
) noexcept nogil:
    """dx = da Wx^T for rows `first` ... of x, by way of a block of them in time-major order."""
    cdef Py_ssize_t K = s.columns.panels * s.W, row = computed(s.inputs), m, r, n
    cdef Py_ssize_t m1 = part(rows, 6, thread + 1, threads)
    cdef real* out
    m = part(rows, 6, thread, threads)
    while m < m1:
        n = min(DX_ROWS, m1 - m)
        product(n, row, s.columns.used, das + m * s.W, _panels_of(s, panel), WxT, K * s.W, zeros,
                0, 0, scratch, row, s.W)
        for r in range(first + m, first + m + n):
            out = &dxs[0, r, 0] if s.indexed else &dxs[r % s.N, r // s.N, 0]
            memcpy(out, scratch + (r - first - m) * row, s.D * sizeof(real))
        m += n


cdef inline Walk _panels_of(Layer s, Py_ssize_t panel) noexcept nogil:
    """A is a matrix in panels (P, rows, W), `panel` apart."""
    cdef Walk walk
    walk.row, walk.tile, walk.k_stride, walk.width, walk.block = s.W, s.W, 1, s.W, panel
    return walk
