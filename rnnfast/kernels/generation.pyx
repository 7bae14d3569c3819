"""Generation below the GIL: embedding, recurrent layers, affine layer and draw, token by token.

One row goes through everything, so the weights are packed once for all tokens, and the products
are bound by reading them. What the first layer makes of its input is computed once for each token
of the vocabulary where more tokens than that are to be generated.
"""

import numpy as np

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .engine cimport (
    F64, RNNFAST_LSTM, RNNFAST_RNN, Buffer, Columns, cell_forward, columns_of, computed, lanes_of,
    pack, padded, product, real, rows_of, units_of,
)

CELLS = {"rnn": RNNFAST_RNN, "lstm": RNNFAST_LSTM}


ctypedef struct Step:
    int cell
    Py_ssize_t S, D, H
    Py_ssize_t row, state         # length of a state; distance of the states of a cell
    Columns columns
    void* Wx                      # (P, D + 1, W): Wx, and b below it
    void* Wh                      # (P, H, W)
    void* gates                   # (P, W)
    void* before                  # (S, row): of the last step, and of this one
    void* after


cdef class Model:
    """Packed weights and the state of one row."""

    cdef Py_ssize_t V, D, L, n_layers
    cdef Step* steps
    cdef list buffers
    cdef void *affine
    cdef void *table
    cdef void *x
    cdef void *logits
    cdef void *zeros
    cdef object embed_W

    def __cinit__(self):
        self.buffers = []

    def __dealloc__(self):
        free(self.steps)

    cdef void* memory(self, Py_ssize_t count, Py_ssize_t itemsize) except NULL:
        cdef Buffer buffer = Buffer()
        cdef void* data = buffer.reserve(count, itemsize)
        self.buffers.append(buffer)
        memset(data, 0, count * itemsize)
        return data


def generate(embed_W, layers, affine_W, affine_b, states, first, length, temperature, skip_ids,
             uniforms):
    """Tokens drawn, and states. See `rnnfast.reference.ops.generate` for the contract."""
    cdef Model model = Model()
    _pack_affine(model, affine_W, affine_b, len(layers))
    for k, (cell, Wx, Wh, b) in enumerate(layers):
        state = np.zeros((cell.S, 1, len(Wh)), Wh.dtype) if states[k] is None else states[k]
        _pack_layer(model, k, CELLS[cell.name], cell.G, Wx, Wh, b, state[:, 0])
    skip = np.zeros(len(embed_W), np.uint8)
    skip[list(skip_ids)] = 1
    ids = np.empty(length, np.int64)
    p = np.empty(len(embed_W) + 1)
    uses_table = length > len(embed_W)
    if uses_table:
        _fill_table(model, embed_W)
    _generate(model, embed_W, uses_table, first, temperature, skip, uniforms, p, ids)
    after = [np.empty((cell.S, 1, len(Wh)), Wh.dtype) for cell, _, Wh, _ in layers]
    for k, state in enumerate(after):
        _states_of(model, k, state[:, 0])
    return ids, after


def _pack_affine(Model model, const real[:, :] W, const real[:] b, Py_ssize_t n_layers):
    cdef Py_ssize_t size = sizeof(real), H = W.shape[0], V = W.shape[1], L = lanes_of(&b[0])
    cdef Columns columns = columns_of(1, V, L)
    cdef real* W_p = <real*> model.memory(columns.panels * (H + 1) * 4 * L, size)
    pack(&W[0, 0], W.strides[0] // size, W.strides[1] // size, H, columns, 0, columns.panels, W_p,
         (H + 1) * 4 * L)
    pack(&b[0], 0, b.strides[0] // size, 1, columns, 0, columns.panels, W_p + H * 4 * L,
         (H + 1) * 4 * L)
    model.V, model.L, model.n_layers, model.affine = V, L, n_layers, W_p
    model.logits = model.memory(columns.panels * 4 * L, size)
    model.zeros = model.memory(4 * L, size)
    model.steps = <Step*> malloc(n_layers * sizeof(Step))
    if model.steps == NULL:
        raise MemoryError()


def _pack_layer(
    Model model, Py_ssize_t k, int cell, Py_ssize_t G,
    const real[:, :] Wx,          # IN (D, G * H)
    const real[:, :] Wh,          # IN (H, G * H)
    const real[:] b,              # IN (G * H)
    const real[:, :] states,      # IN (S, H)
):
    cdef Py_ssize_t size = sizeof(real), L = model.L, P, i, j
    cdef Step s
    s.cell, s.S, s.D, s.H = cell, states.shape[0], Wx.shape[0], Wh.shape[0]
    s.columns = columns_of(G, s.H, L)
    P = s.columns.panels
    # a 1 behind h: the layer above finds its input with a 1 at the end
    s.row = s.state = padded(P * s.columns.units + L + 1, size)
    cdef real* Wx_p = <real*> model.memory(P * (s.D + 1) * 4 * L, size)
    cdef real* Wh_p = <real*> model.memory(P * s.H * 4 * L, size)
    s.Wx, s.Wh, s.gates = Wx_p, Wh_p, model.memory(P * 4 * L, size)
    s.before, s.after = model.memory(s.S * s.row, size), model.memory(s.S * s.row, size)
    for i in range(s.S):
        for j in range(s.H):
            (<real*> s.before)[i * s.row + j] = states[i, j]
    pack(&Wx[0, 0], Wx.strides[0] // size, Wx.strides[1] // size, s.D, s.columns, 0, P, Wx_p,
         (s.D + 1) * 4 * L)
    pack(&b[0], 0, b.strides[0] // size, 1, s.columns, 0, P, Wx_p + s.D * 4 * L,
         (s.D + 1) * 4 * L)
    pack(&Wh[0, 0], Wh.strides[0] // size, Wh.strides[1] // size, s.H, s.columns, 0, P, Wh_p,
         s.H * 4 * L)
    model.steps[k] = s
    if k == 0:
        model.x = model.memory(padded(s.D + 1, size), size)
        (<real*> model.x)[s.D] = 1


def _states_of(Model model, Py_ssize_t k, real[:, :] states):
    """Those of layer k, (S, H), as the last step left them."""
    cdef Step s = model.steps[k]
    cdef Py_ssize_t i, j
    for i in range(s.S):
        for j in range(s.H):
            states[i, j] = (<real*> s.before)[i * s.row + j]


def _fill_table(Model model, const real[:, :] embed_W):
    """[x 1] [Wx b] of the first layer for every token: (V, P, W)"""
    cdef Py_ssize_t size = sizeof(real), V = embed_W.shape[0], D = embed_W.shape[1], v, j
    cdef Step s = model.steps[0]
    cdef Py_ssize_t W = 4 * s.columns.lanes, P = s.columns.panels, row = padded(D + 1, size)
    cdef Buffer rows = Buffer()
    cdef real* x = <real*> rows.reserve(V * row, size)
    cdef real* table = <real*> model.memory(V * P * W, size)
    with nogil:
        for v in range(V):
            for j in range(D):
                x[v * row + j] = embed_W[v, j]
            x[v * row + D] = 1
        product(V, computed(s.columns), D + 1, x, rows_of(row), <real*> s.Wx, (D + 1) * W,
                <real*> model.zeros, 0, 0, table, P * W, W)
    model.table = table


def _generate(
    Model model,
    const real[:, :] embed_W,     # IN (V, D)
    bint uses_table,
    int64_t token,                # the first input
    double temperature,
    const unsigned char[::1] skip,  # IN (V): whether a token is never generated
    const double[::1] uniforms,   # IN (length): random numbers in 0 <= u < 1
    double[::1] p,                # scratch (V + 1)
    int64_t[::1] ids,             # OUT (length)
):
    cdef Py_ssize_t k, t
    cdef Step* s = model.steps
    cdef real *h
    with nogil:
        for t in range(ids.shape[0]):
            h = NULL
            for k in range(model.n_layers):
                s = model.steps + k
                if k == 0 and uses_table:
                    memcpy(s.gates, <real*> model.table + token * s.columns.panels * 4 * model.L,
                           s.columns.panels * 4 * model.L * sizeof(real))
                else:
                    if k == 0:
                        h = <real*> model.x
                        _copy_row(embed_W, token, h)
                    _project(s, h, <const real*> model.zeros)
                _step(s, <real*> s.before, <real*> s.after, <real*> s.gates)
                s.before, s.after = s.after, s.before
                h = <real*> s.before
                h[s.H] = 1        # for [h 1]; no step reads it
            _affine(model, s.H, h, <real*> model.logits)
            token = _draw(model.V, <real*> model.logits, temperature, skip,
                          uniforms[t] if temperature > 0 else 0, p)
            ids[t] = token


cdef void _copy_row(const real[:, :] W, Py_ssize_t v, real* x) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(W.shape[1]):
        x[j] = W[v, j]


cdef void _project(Step* s, const real* x, const real* zeros) noexcept nogil:
    """a = [x 1] [Wx b]"""
    cdef Py_ssize_t W = 4 * s.columns.lanes
    product(1, computed(s.columns), s.D + 1, x, rows_of(0), <const real*> s.Wx, (s.D + 1) * W,
            zeros, 0, 0, <real*> s.gates, 0, W)


cdef void _step(Step* s, real* before, real* after, real* a) noexcept nogil:
    """a += h Wh;  h = cell(a)"""
    cdef Py_ssize_t W = 4 * s.columns.lanes, P = s.columns.panels, p
    cdef Py_ssize_t units = s.columns.units
    product(1, computed(s.columns), s.H, before, rows_of(0), <const real*> s.Wh, s.H * W, a, 0, W,
            a, 0, W)
    for p in range(P):
        cell_forward(s.cell, 1, units_of(s.columns, p), a + p * W, before + p * units,
                     after + p * units, s.row, s.state)


cdef void _affine(Model model, Py_ssize_t H, const real* h, real* logits) noexcept nogil:
    """logits = [h 1] [W b]"""
    cdef Py_ssize_t W = 4 * model.L
    product(1, (model.V + W - 1) // W * W, H + 1, h, rows_of(0), <const real*> model.affine,
            (H + 1) * W, <const real*> model.zeros, 0, 0, logits, 0, W)


cdef int64_t _draw(
    Py_ssize_t V, const real* logits, double temperature, const unsigned char[::1] skip, double u,
    double[::1] p,
) noexcept nogil:
    """The likeliest token where temperature is 0, otherwise v with probability p_v / sum(p),
    p_v = e^((logit_v - largest) / temperature): the first v with p_0 + ... + p_v > u sum(p)."""
    cdef Py_ssize_t v, best = -1
    cdef double total = 0, so_far = 0
    for v in range(V):
        if not skip[v] and (best < 0 or logits[v] > logits[best]):
            best = v
    if temperature == 0:
        return best
    for v in range(V):
        p[v] = (<double> logits[v] - <double> logits[best]) / temperature
    F64.map[2](V, &p[0], &p[0])
    for v in range(V):
        if skip[v]:
            p[v] = 0
        total += p[v]
    for v in range(V):
        so_far += p[v]
        if so_far > u * total:
            return v
    return best
