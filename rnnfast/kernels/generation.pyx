"""Generation below the GIL: embedding, recurrent layers, affine layer and draw, token by token.

Rows of the batch go through everything on their own, so a thread has some of them and never waits.
Few rows are bound by reading the weights: where they stand, for a few tokens; for more of them,
they are packed once. What the first layer makes of its input is computed once for each token of the
vocabulary where more tokens than that are to be generated. A row's numbers are the same whatever
stands beside it, for none of this but `few` changes a bit, and that depends on the length alone.
"""

import numpy as np

from libc.float cimport DBL_MIN
from libc.math cimport isfinite
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .block cimport (
    Memory, Range, Share, Sizes, columns_of_group, layer_sizes, range_of, share_of, state_at,
)
from .engine cimport (
    RESET_AFTER, RESET_BEFORE, Buffer, Matrix, Panels, Simd, States, below, cell_number, cell_of,
    check_shapes, matrix_of, moved, real, row_of, run, simd_of, threads_for, view_of, with_precision,
)
from .forward_steps cimport one_step, pack_layer, project, round_h, round_x
from .panels cimport Columns, columns_of, computed, from_row, pack, panels_at, rows_in_panels
from .products cimport (
    FEW_ROWS, Weights, pack_weights, product_with, round_rows, rows_as_operand, rows_of, weights_for,
)

cdef enum:
    TOKENS_WORTH = 10             # after which packed weights, read faster, have made up for packing
    ROWS_WORTH = 4                # of a thread
    ENDED = -1                    # what stands for a token: see the twin
    BROKEN = -2


# A layer of one step, again and again: its states enter in rows 0 ... N - 1 of `left`.
ctypedef struct Layer:
    Sizes sizes
    Memory mem


ctypedef struct Model:
    const Simd* simd
    Py_ssize_t N, V, D, n_layers
    double flops                  # of a token
    Layer* layers
    Weights W                     # (H, V)
    Matrix operand                # (N, H): what W is multiplied with, if that is rounded
    Panels b, logits              # (1, V); (N, V), contiguous rows
    bint uses_table
    Panels table                  # (V, G*H): what the first layer makes of every token
    Matrix embed_W                # (V, D), contiguous rows
    Matrix x                      # (N, D): input of the first layer
    # how a token is chosen
    double temperature, top_p
    Py_ssize_t top_k
    const unsigned char* skipped  # (V): whether a token is never generated
    const unsigned char* stops    # (V): whether a row ends with it
    # rows
    int64_t* tokens               # (N): what each row reads next
    unsigned char* ended          # (N)
    # of one call
    Py_ssize_t K                  # tokens of a row
    const double* uniforms        # IN (N, K)
    int64_t* ids                  # OUT (N, K)
    double* scores                # (threads, 2 V): logits, then probabilities but for a factor
    int64_t* order                # (threads, V)


cdef class Writer:
    """Weights, and the state of every row. See `rnnfast.reference.generation.Writer`."""

    cdef Model m
    cdef bint few                 # tokens, for which nothing is packed
    cdef list kept                # memory, and the arrays of the caller
    cdef Buffer scores, order

    def __cinit__(self):
        self.kept = []
        self.scores, self.order = Buffer(), Buffer()

    def __dealloc__(self):
        free(self.m.layers)

    def write(self, uniforms):
        """The next tokens of every row. See `rnnfast.reference.generation.Writer.write`."""
        uniforms = np.ascontiguousarray(uniforms)
        if uniforms.ndim != 2 or uniforms.shape[0] != self.m.N:
            raise ValueError(
                f"uniforms: expected random numbers of shape ({self.m.N}, K), got {uniforms.shape}"
            )
        ids = np.full(uniforms.shape, ENDED)
        cdef Model m = self.m
        m.K = ids.shape[1]
        if ids.size == 0:
            return ids
        cdef const double[:, ::1] given = uniforms
        cdef int64_t[:, ::1] taken = ids
        cdef int threads = min(threads_for(m.flops * m.N * m.K), max(1, m.N // ROWS_WORTH))
        m.uniforms, m.ids = &given[0, 0], &taken[0, 0]
        m.scores = <double*> self.scores.reserve(2 * threads * m.V, sizeof(double))
        m.order = <int64_t*> self.order.reserve(threads * m.V, sizeof(int64_t))
        with nogil:
            run(_task, &m, threads)
        return ids

    cdef void* memory(self, Py_ssize_t count) except NULL:
        """Memory of the writer for `count` numbers, all 0."""
        cdef Buffer buffer = Buffer()
        self.kept.append(buffer)
        return buffer.zeroed(count, self.m.simd.number)

    cdef Panels panels(self, Py_ssize_t panels, Py_ssize_t rows) except *:
        """Memory of the writer for panels of so many rows."""
        return panels_at(self.m.simd, self.memory(panels * rows * 4 * self.m.simd.lanes), rows)

    cdef Weights weights(self, Matrix W, Py_ssize_t K, Columns columns) except *:
        """W (K, columns), which the caller keeps, and memory for it if it is to be packed."""
        cdef Weights B = weights_for(self.m.simd, W, K, columns, 1 if self.few else FEW_ROWS + 1)
        if B.packed:
            B.panels = self.panels(columns.panels, K)
        return B

    cdef States states(self, const Sizes* s, Py_ssize_t S, Py_ssize_t rows) except *:
        """Memory of the writer for states of a layer."""
        return States(self.memory(S * rows * s.h_row), s.h_row, rows * s.h_row)

    cdef Panels bias(self, Matrix b, Columns columns) except *:
        """A row that stands for all."""
        cdef Panels row = self.panels(columns.panels, 1)
        pack(self.m.simd, b, 1, columns, 0, columns.panels, row)
        row.row = 0
        return row


def writer(embed_W, layers, affine_W, affine_b, states, first, length, choice, *, precision=None):
    """What draws tokens. See `rnnfast.reference.ops.writer` for the contract."""
    cdef Writer w = Writer()
    cdef int64_t[::1] tokens = np.array(first)
    cdef unsigned char[::1] ended = np.zeros(len(tokens), np.uint8)
    temperature, top_k, top_p, *marked = choice
    marks_of = np.zeros((2, len(embed_W)), np.uint8)
    for row, token_ids in zip(marks_of, marked):
        row[list(token_ids)] = 1
    cdef unsigned char[:, ::1] marks = marks_of
    embed_W = np.ascontiguousarray(embed_W)
    _check_dtypes(embed_W.dtype, affine_W, *(W for _, *weights in layers for W in weights))
    w.kept += [embed_W, layers, affine_W, affine_b, tokens, ended, marks]
    w.few = length <= TOKENS_WORTH
    w.m.N, w.m.V, w.m.D = len(tokens), embed_W.shape[0], embed_W.shape[1]
    w.m.embed_W = view_of(embed_W).matrix
    # what is smaller is 0 below, and would not be a number where it divides 0
    w.m.temperature, w.m.top_p = max(temperature, DBL_MIN) if temperature else 0, top_p
    w.m.top_k = w.m.V if top_k is None else min(top_k, w.m.V)
    w.m.tokens, w.m.ended = &tokens[0], &ended[0]
    w.m.skipped, w.m.stops = &marks[0, 0], &marks[1, 0]
    w.m.uses_table = length * w.m.N > w.m.V
    _set_affine(w, affine_W, affine_b, len(layers), precision)
    for k, (cell, Wx, Wh, b, *rest) in enumerate(layers):
        state = np.zeros((cell.S, len(tokens), len(Wh)), Wh.dtype) if states[k] is None else states[k]
        _set_layer(w, k, cell_number(cell.name), Wx, Wh, b, rest[0] if rest else None, state)
    check_shapes(w.m.layers[w.m.n_layers - 1].sizes.H == w.m.W.K)
    if w.m.uses_table:
        _fill_table(w)
    return w


def _check_dtypes(dtype, *arrays):
    """Raise TypeError where an array is of another dtype: what one is made of is read as it is."""
    for array in arrays:
        if array.dtype != dtype:
            raise TypeError(
                f"weights: expected {dtype} as the embedding has, got {array.dtype}; give all "
                "layers of the model one dtype"
            )


def _set_affine(Writer w, const real[:, :] W, const real[:] b, Py_ssize_t n_layers, precision):
    cdef Model* m = &w.m
    m.simd, m.n_layers = with_precision(simd_of(&b[0]), precision), n_layers
    m.flops = 2.0 * W.shape[0] * m.V
    check_shapes(W.shape[1] == b.shape[0] == m.V)
    cdef Columns columns = columns_of(1, m.V, m.simd.lanes)
    cdef Py_ssize_t row = columns.panels * 4 * m.simd.lanes
    m.W = w.weights(matrix_of(W), W.shape[0], columns)
    pack_weights(&m.W, 0, columns.panels)
    m.operand = Matrix(w.memory(m.N * W.shape[0]), W.shape[0], 1)
    m.b = w.bias(row_of(b), columns)
    m.logits = rows_in_panels(m.simd, w.memory(m.N * row), row)
    m.x = Matrix(w.memory(m.N * m.D), m.D, 1)
    m.layers = <Layer*> malloc(n_layers * sizeof(Layer))
    if m.layers == NULL:
        raise MemoryError()


def _set_layer(
    Writer w, Py_ssize_t k, int cell,
    const real[:, :] Wx,          # IN (D, G*H)
    const real[:, :] Wh,          # IN (H, G*H)
    const real[:] b,              # IN (G*H)
    const real[:] bh,             # IN (G*H), or None
    const real[:, :, :] states,   # IN (S, N, H)
):
    cdef Sizes s = layer_sizes(w.m.simd, cell, states.shape[0], Wx.shape[0], Wh.shape[0])
    cdef Memory mem
    cdef Py_ssize_t N = w.m.N, panels = s.groups * s.P, g, i, j, n
    cdef Py_ssize_t inputs = w.m.layers[k - 1].sizes.H if k > 0 else w.m.D
    check_shapes(s.D == inputs and Wx.shape[1] == Wh.shape[1] == b.shape[0] == cell_of(cell).gates * s.H
                 and (bh is None or bh.shape[0] == b.shape[0])
                 and states.shape[1] == N and states.shape[2] == s.H)
    s.T, s.by_rows = 1, True
    s.N = s.R = s.U = N
    for g in range(s.groups):
        mem.Wx[g] = w.weights(columns_of_group(&s, matrix_of(Wx), g), s.D, s.columns)
        mem.Wh[g] = w.weights(columns_of_group(&s, matrix_of(Wh), g), s.H, s.columns)
    mem.b, mem.b_panels = row_of(b), w.panels(panels, 1)
    mem.bh.at = NULL
    if s.reset == RESET_AFTER:
        mem.bh, mem.bh_panels = row_of(bh), w.panels(panels, 1)
        mem.hidden = w.panels(s.P, N)
    pack_layer(&s, &mem, Range(0, s.P))  # outside `run`: copies, and at most one sum of biases
    mem.gates = w.panels(panels, N)
    mem.entering = mem.left = w.states(&s, s.S, 2 * N)
    mem.made = States(moved(s.simd, mem.left.at, N * s.h_row), s.h_row, mem.left.state)
    mem.h_in = mem.entering
    if s.reset == RESET_BEFORE:
        mem.reset_h = w.states(&s, 1, N)
    for i in range(s.S):
        for n in range(N):
            for j in range(s.H):
                (<real*> state_at(&s, &mem.left, i, n, 0))[j] = states[i, n, j]
    if s.simd.rounds:
        mem.x_operand = Matrix(w.memory((w.m.V if k == 0 and w.m.uses_table else N) * s.x_row),
                               s.x_row, 1)
        mem.h_operand = Matrix(w.memory(2 * N * s.h_row), s.h_row, 1)
        mem.reset_operand = below(s.simd, mem.h_operand, N)  # of one step there is one h
    # the layers above read h among the states that the one below has just made
    mem.x = w.m.x
    if k > 0:
        mem.x = Matrix(w.m.layers[k - 1].mem.made.at, w.m.layers[k - 1].mem.made.row, 1)
    w.m.flops += 2.0 * (s.D + s.H) * Wh.shape[1]
    w.m.layers[k] = Layer(s, mem)


def _fill_table(Writer w):
    """Memory for what the first layer makes of every token, and what it is."""
    cdef const Sizes* s = &w.m.layers[0].sizes
    cdef Py_ssize_t numbers = s.groups * s.P * s.width
    # all panels of a token side by side
    w.m.table = rows_in_panels(w.m.simd, w.memory(w.m.V * numbers), numbers)
    with nogil:
        run(_table_task, &w.m, 1)


cdef void _table_task(const void* model, int thread, int threads) noexcept nogil:
    """x Wx + b of the first layer for every token."""
    cdef const Model* m = <const Model*> model
    cdef Layer layer = m.layers[0]
    layer.mem.x = m.embed_W
    round_x(&layer.sizes, &layer.mem, Range(0, m.V), 0)
    project(&layer.sizes, &layer.mem, Range(0, m.V), 0, Range(0, layer.sizes.P), m.table)


cdef void _task(const void* model, int thread, int threads) noexcept nogil:
    """All tokens of the rows of a thread."""
    cdef const Model* m = <const Model*> model
    cdef Range rows = range_of(m.N, 1, thread, threads)
    cdef double* scores = m.scores + 2 * thread * m.V
    cdef int64_t* order = m.order + thread * m.V
    cdef Py_ssize_t k, t, n, last, left
    cdef int64_t* taken
    cdef const Layer* top = m.layers + m.n_layers - 1
    cdef Matrix h = Matrix(top.mem.made.at, top.sizes.h_row, 1)
    cdef Matrix operand = rows_as_operand(m.W.simd, h, m.operand.at, m.operand.row)
    for t in range(m.K):
        left = 0
        for n in range(rows.begin, rows.end):
            left += not m.ended[n]
        if left == 0:
            return
        for k in range(m.n_layers):
            _step(m, k, rows)
        # logits = h W + b
        round_rows(m.W.simd, rows.begin, rows.end, top.sizes.H, h, operand)
        product_with(rows.end - rows.begin, computed(m.W.columns),
                     rows_of(moved(m.simd, operand.at, rows.begin * operand.row), operand.row),
                     &m.W, 0, m.b, from_row(m.simd, m.logits, rows.begin, 0))
        for n in range(rows.begin, rows.end):
            _enter(m, n)
            if m.ended[n]:
                continue
            _read(m, n, scores)
            taken = m.ids + n * m.K + t
            taken[0] = _draw(m, m.uniforms[n * m.K + t], scores, scores + m.V, order)
            m.ended[n] = taken[0] < 0 or m.stops[taken[0]]
            m.tokens[n] = max(taken[0], 0)


cdef void _step(const Model* m, Py_ssize_t k, Range rows) noexcept nogil:
    """A step of layer k: from `left` to `made`."""
    cdef const Layer* layer = m.layers + k
    cdef const Sizes* s = &layer.sizes
    cdef Py_ssize_t n, p
    cdef void* row
    cdef Share share = share_of(s, 0, 1)
    for n in range(rows.begin, rows.end if k == 0 else 0):
        if m.uses_table:
            row = from_row(m.simd, m.table, m.tokens[n], 0).at
            for p in range(s.groups * s.P):
                memcpy(from_row(m.simd, layer.mem.gates, n, p).at,
                       moved(m.simd, row, p * s.width), s.width * m.simd.number)
        else:
            memcpy(moved(m.simd, m.x.at, n * m.D),
                   moved(m.simd, m.embed_W.at, m.tokens[n] * m.embed_W.row), m.D * m.simd.number)
    if k > 0 or not m.uses_table:
        round_x(s, &layer.mem, rows, 0)
        project(s, &layer.mem, rows, 0, share.panels, layer.mem.gates)
    round_h(s, &layer.mem, 0, rows.begin, rows.begin, rows.end - rows.begin, Range(0, s.H))
    one_step(s, &layer.mem, share, 0, rows.begin, rows.begin, rows.end - rows.begin)


cdef void _enter(const Model* m, Py_ssize_t n) noexcept nogil:
    """The states that a step has made of row n enter the next one."""
    cdef Py_ssize_t k, i
    cdef const Layer* layer
    for k in range(m.n_layers):
        layer = m.layers + k
        for i in range(layer.sizes.S):
            memcpy(state_at(&layer.sizes, &layer.mem.left, i, n, 0),
                   state_at(&layer.sizes, &layer.mem.made, i, n, 0),
                   layer.sizes.H * m.simd.number)


cdef void _read(const Model* m, Py_ssize_t n, double* scores) noexcept nogil:
    """Logits of row n in float64."""
    cdef const void* row = from_row(m.simd, m.logits, n, 0).at
    cdef Py_ssize_t v
    for v in range(m.V):
        scores[v] = (<float*> row)[v] if m.simd.number == sizeof(float) else (<double*> row)[v]


cdef int64_t _draw(
    const Model* m, double u, const double* logits, double* p, int64_t* order,
) noexcept nogil:
    """The likeliest token where temperature is 0, otherwise v with probability p_v / sum(p),
    p_v = e^((logit_v - largest) / temperature): the first v with p_0 + ... + p_v > u sum(p)."""
    cdef Py_ssize_t v, best = -1
    cdef double total = 0, so_far = 0
    for v in range(m.V):
        if m.skipped[v]:
            continue
        if logits[v] != logits[v]:
            return BROKEN
        if best < 0 or logits[v] > logits[best]:
            best = v
    if best < 0 or not isfinite(logits[best]):
        return BROKEN
    if m.temperature == 0:
        return best
    for v in range(m.V):
        p[v] = (logits[v] - logits[best]) / m.temperature
    simd_of(p).map_exp(m.V, p, p)
    for v in range(m.V):
        if m.skipped[v]:
            p[v] = 0
    if m.top_k < m.V or m.top_p < 1:
        _keep(m, logits, p, order)
    for v in range(m.V):
        total += p[v]
    for v in range(m.V):
        so_far += p[v]
        if so_far > u * total:
            return v
    return best


cdef void _keep(
    const Model* m, const double* logits, double* p, int64_t* order,
) noexcept nogil:
    """0 for every p but those of the `top_k` likeliest tokens, and of these of the first that sum
    to `top_p` of their sum: as many as that needs come from a heap, in which none is likelier than
    the one at (k - 1) // 2."""
    cdef Py_ssize_t v, n = 0, most, taken = 0, kept = 0
    cdef double total = 0, so_far = 0
    for v in range(m.V):
        if not m.skipped[v]:
            order[n] = v
            total += p[v]
            n += 1
    for v in range(n // 2 - 1, -1, -1):
        _sink(logits, order, v, n)
    most = min(m.top_k, n)
    if most < n:
        total = 0
        while taken < most:
            total += p[_take(logits, order, n - taken)]
            taken += 1
    # what is taken stands at the end of `order`, the likeliest last
    while kept < most and (m.top_p == 1 or so_far < m.top_p * total):
        if kept == taken:
            _take(logits, order, n - taken)
            taken += 1
        so_far += p[order[n - 1 - kept]]
        kept += 1
    for v in range(n - kept):
        p[order[v]] = 0


cdef int64_t _take(const double* logits, int64_t* order, Py_ssize_t n) noexcept nogil:
    """Move the likeliest of a heap of n tokens behind the others."""
    order[0], order[n - 1] = order[n - 1], order[0]
    _sink(logits, order, 0, n - 1)
    return order[n - 1]


cdef void _sink(
    const double* logits, int64_t* order, Py_ssize_t k, Py_ssize_t n,
) noexcept nogil:
    """Let the token at k sink to where it is likelier than those below."""
    cdef Py_ssize_t child
    while 2 * k + 1 < n:
        child = 2 * k + 1
        if child + 1 < n and _likelier(logits, order[child + 1], order[child]):
            child += 1
        if not _likelier(logits, order[child], order[k]):
            return
        order[k], order[child] = order[child], order[k]
        k = child


cdef inline bint _likelier(const double* logits, int64_t a, int64_t b) noexcept nogil:
    """Of equals, the first."""
    return logits[a] > logits[b] or (logits[a] == logits[b] and a < b)
