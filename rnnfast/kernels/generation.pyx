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

from .block cimport (
    Memory, Range, Sizes, columns_of_group, layer_sizes, share_of, state_at,
)
from .engine cimport (
    RESET_AFTER, RESET_BEFORE, Buffer, Matrix, Panels, Simd, States, cell_number, matrix_of, moved,
    real, row_of, simd_of,
)
from .forward_steps cimport one_step, pack_layer, project
from .panels cimport Columns, columns_of, computed, from_row, pack, panels_at
from .products cimport FEW_ROWS, Weights, pack_weights, product_with, rows_of, weights_for

cdef enum:
    TOKENS_WORTH = 10             # after which packed weights, read faster, have made up for packing


# A layer of one row and one step, again and again: its states enter in row 0 of `left`.
ctypedef struct Layer:
    Sizes sizes
    Memory mem


cdef class Model:
    """Weights and the state of one row."""

    cdef const Simd* simd
    cdef Py_ssize_t V, width, n_layers
    cdef bint few                 # tokens, for which nothing is packed
    cdef Layer* layers
    cdef list buffers
    cdef Weights W                # (H, V)
    cdef Panels b, logits         # (1, V)
    cdef Panels table             # (V, G*H): what the first layer makes of every token
    cdef void* x                  # (D): input of the first layer

    def __cinit__(self):
        self.buffers = []

    def __dealloc__(self):
        free(self.layers)

    cdef void* memory(self, Py_ssize_t count) except NULL:
        """Memory of the model for `count` numbers, all 0."""
        cdef Buffer buffer = Buffer()
        self.buffers.append(buffer)
        return buffer.zeroed(count, self.simd.number)

    cdef Panels panels(self, Py_ssize_t panels, Py_ssize_t rows) except *:
        """Memory of the model for panels of so many rows."""
        return panels_at(self.simd, self.memory(panels * rows * self.width), rows)

    cdef Weights weights(self, Matrix W, Py_ssize_t K, Columns columns) except *:
        """W (K, columns), which the caller keeps, and memory for it if it is to be packed."""
        cdef Weights B = weights_for(self.simd, W, K, columns, 1 if self.few else FEW_ROWS + 1)
        if B.packed:
            B.panels = self.panels(columns.panels, K)
        return B

    cdef States states(self, const Sizes* s, Py_ssize_t S, Py_ssize_t rows) except *:
        """Memory of the model for states of a layer."""
        return States(self.memory(S * rows * s.h_row), s.h_row, rows * s.h_row)

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
    for k, (cell, Wx, Wh, b, *rest) in enumerate(layers):
        state = np.zeros((cell.S, 1, len(Wh)), Wh.dtype) if states[k] is None else states[k]
        _set_layer(model, k, cell_number(cell.name), Wx, Wh, b, rest[0] if rest else None,
                   state[:, 0])
    skip = np.zeros(len(embed_W), np.uint8)
    skip[list(skip_ids)] = 1
    ids = np.empty(length, np.int64)
    p = np.empty(len(embed_W) + 1)
    uses_table = length > len(embed_W)
    if uses_table:
        _fill_table(model, embed_W)
    _generate(model, embed_W, uses_table, first, temperature, skip, uniforms, p, ids)
    after = [np.empty((cell.S, 1, len(Wh)), Wh.dtype) for cell, _, Wh, *_ in layers]
    for k, state in enumerate(after):
        _states_of(model, k, state[:, 0])
    return ids, after


def _set_affine(Model model, const real[:, :] W, const real[:] b, Py_ssize_t n_layers):
    model.simd = simd_of(&b[0])
    model.V, model.width, model.n_layers = W.shape[1], 4 * model.simd.lanes, n_layers
    cdef Columns columns = columns_of(1, model.V, model.simd.lanes)
    model.W = model.weights(matrix_of(W), W.shape[0], columns)
    pack_weights(model.simd, &model.W, 0, columns.panels)
    model.b, model.logits = model.bias(row_of(b), columns), model.panels(columns.panels, 1)
    model.layers = <Layer*> malloc(n_layers * sizeof(Layer))
    if model.layers == NULL:
        raise MemoryError()


def _set_layer(
    Model model, Py_ssize_t k, int cell,
    const real[:, :] Wx,          # IN (D, G*H)
    const real[:, :] Wh,          # IN (H, G*H)
    const real[:] b,              # IN (G*H)
    const real[:] bh,             # IN (G*H), or None
    const real[:, :] states,      # IN (S, H)
):
    cdef Sizes s = layer_sizes(model.simd, cell, states.shape[0], Wx.shape[0], Wh.shape[0])
    cdef Memory mem
    cdef Py_ssize_t panels = s.groups * s.P, g, i, j
    s.N = s.T = s.R = s.U = 1
    for g in range(s.groups):
        mem.Wx[g] = model.weights(columns_of_group(&s, matrix_of(Wx), g), s.D, s.columns)
        mem.Wh[g] = model.weights(columns_of_group(&s, matrix_of(Wh), g), s.H, s.columns)
    mem.b, mem.b_panels = row_of(b), model.panels(panels, 1)
    if s.reset == RESET_AFTER:
        mem.bh, mem.bh_panels = row_of(bh), model.panels(panels, 1)
        mem.hidden = model.panels(s.P, 1)
    pack_layer(&s, &mem, Range(0, s.P))
    mem.gates = model.panels(panels, 1)
    mem.entering = mem.left = model.states(&s, s.S, 2)
    mem.made = States(moved(s.simd, mem.left.at, s.h_row), s.h_row, mem.left.state)
    mem.h_in = mem.entering
    if s.reset == RESET_BEFORE:
        mem.reset_h = model.states(&s, 1, 1)
    for i in range(s.S):
        for j in range(s.H):
            (<real*> state_at(&s, &mem.left, i, 0, 0))[j] = states[i, j]
    if k == 0:
        model.x = model.memory(s.D)
    model.layers[k] = Layer(s, mem)


def _states_of(Model model, Py_ssize_t k, real[:, :] states):
    """Those of layer k, (S, H), as the last step left them."""
    cdef Layer* layer = model.layers + k
    cdef Py_ssize_t i, j
    for i in range(states.shape[0]):
        for j in range(states.shape[1]):
            states[i, j] = (<real*> state_at(&layer.sizes, &layer.mem.left, i, 0, 0))[j]


def _fill_table(Model model, const real[:, :] embed_W):
    """x Wx + b of the first layer for every token."""
    cdef Py_ssize_t V = embed_W.shape[0], v
    cdef Layer* layer = model.layers
    cdef Sizes* s = &layer.sizes
    cdef Py_ssize_t numbers = s.groups * s.P * model.width
    cdef Buffer rows = Buffer()
    cdef real* x = <real*> rows.reserve(V * s.x_row, model.simd.number)
    layer.mem.x = Matrix(x, s.x_row, 1)
    # all panels of a token side by side: they are copied together
    model.table = Panels(model.memory(V * numbers), numbers, model.width, model.simd.lanes)
    with nogil:
        for v in range(V):
            _copy_row(embed_W, v, x + v * s.x_row)
        project(s, &layer.mem, Range(0, V), Range(0, s.P), model.table)


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
    cdef Layer* layer
    cdef void* h = model.x
    with nogil:
        for t in range(ids.shape[0]):
            for k in range(model.n_layers):
                layer = model.layers + k
                if k == 0 and uses_table:
                    memcpy(layer.mem.gates.at, from_row(model.simd, model.table, token, 0).at,
                           model.table.row * model.simd.number)
                else:
                    if k == 0:
                        h = model.x
                        _copy_row(embed_W, token, <real*> h)
                    layer.mem.x = Matrix(h, 0, 1)
                    project(&layer.sizes, &layer.mem, Range(0, 1), Range(0, layer.sizes.P),
                            layer.mem.gates)
                h = _step(layer)
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


cdef void* _step(Layer* layer) noexcept nogil:
    """A step, whose states then enter the next one; returns where h is."""
    cdef Sizes* s = &layer.sizes
    cdef Memory* mem = &layer.mem
    cdef Py_ssize_t k
    one_step(s, mem, share_of(s, 0, 1), 0, 0, 0, 1)
    for k in range(s.S):
        memcpy(state_at(s, &mem.left, k, 0, 0), state_at(s, &mem.left, k, 1, 0),
               s.H * s.simd.number)
    return mem.left.at


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
