"""Generation below the GIL: embedding, recurrent layers, affine layer and draw, token by token.

One row goes through everything, so the products are bound by reading the weights: where they
stand, for a few tokens; for more of them, they are packed once. What the first layer makes of its
input is computed once for each token of the vocabulary where more tokens than that are to be
generated.
"""

import numpy as np

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .engine cimport (
    FEW_ROWS, Buffer, Columns, Matrix, Panels, Simd, States, Weights, cell_number, columns_of,
    computed, from_row, matrix_of, moved, pack, pack_weights, padded, panels_at, product_with, real,
    row_of, rows_of, simd_of, units_of, weights_for,
)

cdef enum:
    TOKENS_WORTH = 10             # after which packed weights, read faster, have made up for packing


ctypedef struct Step:
    int cell
    Py_ssize_t S, D, H
    Columns columns
    Weights Wx, Wh                # (D, G*H), (H, G*H)
    Panels b, gates               # (1, G*H)
    States before, after          # (S, 1, H): of the last step, and of this one


cdef class Model:
    """Weights and the state of one row."""

    cdef const Simd* simd
    cdef Py_ssize_t V, width, n_layers
    cdef bint few                 # tokens, for which nothing is packed
    cdef Step* steps
    cdef list buffers
    cdef Weights W                # (H, V)
    cdef Panels b, logits         # (1, V)
    cdef Panels table             # (V, G*H): what the first layer makes of every token
    cdef void* x                  # (D): input of the first layer

    def __cinit__(self):
        self.buffers = []

    def __dealloc__(self):
        free(self.steps)

    cdef void* memory(self, Py_ssize_t count) except NULL:
        """Memory of the model for `count` numbers, all 0."""
        cdef Buffer buffer = Buffer()
        self.buffers.append(buffer)
        return buffer.zeroed(count, self.simd.number)

    cdef Panels panels(self, Py_ssize_t panels, Py_ssize_t rows) except *:
        """Memory of the model for panels of so many rows."""
        return panels_at(self.simd, self.memory(panels * rows * self.width), rows)

    cdef Weights weights(self, Matrix W, Py_ssize_t K, Columns columns) except *:
        """W (K, columns), which the caller keeps."""
        cdef Weights B = weights_for(self.simd, W, K, columns, 1 if self.few else FEW_ROWS + 1)
        if B.packed:
            B.panels = self.panels(columns.panels, K)
            pack_weights(self.simd, &B, 0, columns.panels)
        return B

    cdef Panels bias(self, Matrix b, Columns columns) except *:
        """A row that stands for all."""
        cdef Panels row = self.panels(columns.panels, 1)
        pack(self.simd, b, 1, columns, 0, columns.panels, row)
        row.row = 0
        return row


def generate(embed_W, layers, affine_W, affine_b, states, first, length, temperature, skip_ids,
             uniforms):
    """Tokens drawn, and states. See `rnnfast.reference.ops.generate` for the contract."""
    cdef Model model = Model()
    model.few = length <= TOKENS_WORTH
    _set_affine(model, affine_W, affine_b, len(layers))
    for k, (cell, Wx, Wh, b) in enumerate(layers):
        state = np.zeros((cell.S, 1, len(Wh)), Wh.dtype) if states[k] is None else states[k]
        _set_layer(model, k, cell_number(cell.name), cell.G, Wx, Wh, b, state[:, 0])
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


def _set_affine(Model model, const real[:, :] W, const real[:] b, Py_ssize_t n_layers):
    model.simd = simd_of(&b[0])
    model.V, model.width, model.n_layers = W.shape[1], 4 * model.simd.lanes, n_layers
    cdef Columns columns = columns_of(1, model.V, model.simd.lanes)
    model.W = model.weights(matrix_of(W), W.shape[0], columns)
    model.b, model.logits = model.bias(row_of(b), columns), model.panels(columns.panels, 1)
    model.steps = <Step*> malloc(n_layers * sizeof(Step))
    if model.steps == NULL:
        raise MemoryError()


def _set_layer(
    Model model, Py_ssize_t k, int cell, Py_ssize_t G,
    const real[:, :] Wx,          # IN (D, G * H)
    const real[:, :] Wh,          # IN (H, G * H)
    const real[:] b,              # IN (G * H)
    const real[:, :] states,      # IN (S, H)
):
    cdef const Simd* simd = model.simd
    cdef Py_ssize_t P, row, i, j
    cdef Step s
    s.cell, s.S, s.D, s.H = cell, states.shape[0], Wx.shape[0], Wh.shape[0]
    s.columns = columns_of(G, s.H, simd.lanes)
    P = s.columns.panels
    row = padded(P * s.columns.units + simd.lanes, simd.number)
    s.Wx = model.weights(matrix_of(Wx), s.D, s.columns)
    s.Wh = model.weights(matrix_of(Wh), s.H, s.columns)
    s.b, s.gates = model.bias(row_of(b), s.columns), model.panels(P, 1)
    s.before = States(model.memory(s.S * row), row, row)
    s.after = States(model.memory(s.S * row), row, row)
    for i in range(s.S):
        for j in range(s.H):
            (<real*> s.before.at)[i * row + j] = states[i, j]
    model.steps[k] = s
    if k == 0:
        model.x = model.memory(s.D)


def _states_of(Model model, Py_ssize_t k, real[:, :] states):
    """Those of layer k, (S, H), as the last step left them."""
    cdef States before = model.steps[k].before
    cdef Py_ssize_t i, j
    for i in range(states.shape[0]):
        for j in range(states.shape[1]):
            states[i, j] = (<real*> before.at)[i * before.state + j]


def _fill_table(Model model, const real[:, :] embed_W):
    """x Wx + b of the first layer for every token."""
    cdef Py_ssize_t V = embed_W.shape[0], D = embed_W.shape[1], v
    cdef Step s = model.steps[0]
    cdef Py_ssize_t row = padded(D, model.simd.number)
    cdef Buffer rows = Buffer()
    cdef real* x = <real*> rows.reserve(V * row, model.simd.number)
    # all panels of a token side by side: they are copied together
    model.table = Panels(model.memory(V * s.columns.panels * model.width),
                         s.columns.panels * model.width, model.width, model.simd.lanes)
    with nogil:
        for v in range(V):
            _copy_row(embed_W, v, x + v * row)
        product_with(model.simd, V, computed(s.columns), rows_of(x, row), &s.Wx, 0, s.b,
                     model.table)


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
    cdef void* h
    with nogil:
        for t in range(ids.shape[0]):
            h = NULL
            for k in range(model.n_layers):
                s = model.steps + k
                if k == 0 and uses_table:
                    memcpy(s.gates.at, from_row(model.simd, model.table, token, 0).at,
                           model.table.row * model.simd.number)
                else:
                    if k == 0:
                        h = model.x
                        _copy_row(embed_W, token, <real*> h)
                    # a = x Wx + b
                    product_with(model.simd, 1, computed(s.columns), rows_of(h, 0), &s.Wx, 0, s.b,
                                 s.gates)
                _step(model.simd, s)
                s.before, s.after = s.after, s.before
                h = s.before.at
            # logits = h W + b
            product_with(model.simd, 1, computed(model.W.columns), rows_of(h, 0), &model.W, 0,
                         model.b, model.logits)
            token = _draw(model.V, <real*> model.logits.at, temperature, skip,
                          uniforms[t] if temperature > 0 else 0, p)
            ids[t] = token


cdef void _copy_row(const real[:, :] W, Py_ssize_t v, real* x) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(W.shape[1]):
        x[j] = W[v, j]


cdef void _step(const Simd* simd, Step* s) noexcept nogil:
    """a += h Wh;  h = cell(a)"""
    cdef Py_ssize_t p, unit
    cdef States before, after
    product_with(simd, 1, computed(s.columns), rows_of(s.before.at, 0), &s.Wh, 0, s.gates, s.gates)
    for p in range(s.columns.panels):
        unit = p * s.columns.units
        before = States(moved(simd, s.before.at, unit), s.before.row, s.before.state)
        after = States(moved(simd, s.after.at, unit), s.after.row, s.after.state)
        simd.forward[s.cell](1, units_of(s.columns, p), from_row(simd, s.gates, 0, p).at, &before,
                             &after)


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
    simd_of(&p[0]).map_exp(V, &p[0], &p[0])
    for v in range(V):
        if skip[v]:
            p[v] = 0
        total += p[v]
    for v in range(V):
        so_far += p[v]
        if so_far > u * total:
            return v
    return best
