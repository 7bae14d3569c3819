"""A block of time steps below the GIL: sizes, memory, and what a thread has of either.

    recurrent.pyx        what Python calls: memory, the arrays of the caller
    forward_steps.pyx    the loop over time, forward
    backward_steps.pyx   and back
    generation.pyx       the same steps, token by token

Rows of memory: with the batch rows in the order of falling length, step t has the first `count`
of them, and the rows of all steps follow each other, R in all. Steps count in the order in which
they are computed, so a layer that runs in reverse meets the arrays of the caller, and nothing else,
from their ends.
"""

from libc.stdint cimport int64_t

from libc.string cimport memset

from .engine cimport ROWS, Cell, Matrix, Panels, Simd, States, cell_of, moved, padded, part
from .panels cimport Columns, columns_of
from .products cimport Weights
from .sums cimport Sums

cdef enum:
    MOST_GROUPS = 3
    MOST_STATES = 2


ctypedef struct Sizes:
    const Simd* simd
    int cell, reset               # its number; what its reset gate does
    int groups                    # of gates: one that share their panels, or one for each gate
    Py_ssize_t S, N, T, D, H      # T: steps that are run, those of the longest row
    Py_ssize_t T_all              # steps in the arrays of the caller
    Py_ssize_t R                  # rows of all steps
    Py_ssize_t U                  # rows of x: R unless an index says which row is used
    Py_ssize_t P, width           # panels of a group, and their width
    Py_ssize_t x_row, h_row       # lengths of padded rows of x and of states
    Columns columns               # of a group of gates
    Columns inputs                # of D
    Columns units                 # of H
    Py_ssize_t rows               # of gates and states that memory is there for
    Py_ssize_t block              # rows whose input is projected at a time, one step at least
    Py_ssize_t chunk              # rows of gates whose gradients are in memory at a time, likewise
    Py_ssize_t truncate           # steps between two cuts of the gradient, 0: none
    Py_ssize_t scratch            # numbers of scratch memory of a thread in backward
    double flops                  # of the call
    int most_threads, threads     # that the call may have, and that it has
    bint by_rows                  # whether threads take rows of the batch, or units
    bint alone                    # whether a thread projects its own rows of the batch, and no others
    bint indexed, reverse, kept, need_dx
    bint x_stays                  # whether rows of x are read where they stand
    bint adds_dx                  # to what another direction has left there
    bint enters                   # whether states have memory of their own where they enter a step
    bint masked, zoned
    bint flat                     # whether arrays of the caller are (R, J), as rows of memory are
    # with lengths, or NULL
    const int64_t* order          # (N): which row of the caller is row n
    const int64_t* lengths        # (N), falling
    const int64_t* counts         # (T): rows of step t
    const int64_t* firsts         # (T + 1): the row at which step t begins


# Of the caller: (N, T, J), J contiguous; (1, U, J) with an index; or, if `flat`, (R, J), both
# distances being that of rows.
ctypedef struct Sequence:
    void* at
    Py_ssize_t n, t


ctypedef struct Memory:
    Sequence xs, hs               # IN (N, T, D); OUT (N, T, H), or NULL
    Sequence dhs, dxs             # IN (N, T, H), or NULL for zeros; OUT (N, T, D)
    Weights Wx[MOST_GROUPS]       # IN (D, G*H)
    Weights Wh[MOST_GROUPS]       # IN (H, G*H)
    Matrix b, bh                  # IN (1, G*H), or NULL
    const int64_t* index          # IN: rows of xs
    Py_ssize_t index_row
    const unsigned char* used     # (U): whether some step uses a row of x, with an index
    const unsigned char* resets   # IN: where a sequence begins, or NULL
    Py_ssize_t resets_row
    void* mask                    # IN (N, H): by which h is multiplied on its way to a product
    Sequence zoneouts[MOST_STATES]  # IN (N, T, H), of each state, or NULL
    Matrix last[MOST_STATES]      # OUT (N, H): states after the last step of each row
    # kept from forward to backward
    Matrix x                      # (U, D): rows of x
    States left                   # (S, N + R, H): initial states, and those that steps leave
    States made                   # (S, R, H): what the cell makes, before zoneout; else in `left`
    States entering               # (S, R, H): what enters a step; else in `left`
    States h_in                   # (1, R, H): what the product with Wh reads; else `entering`
    States reset_h                # (1, R, H): r h_in, where the reset gate acts before the product
    Panels gates                  # (R, G*H)
    Panels hidden                 # (R, H): h Wh + bh of the last gate, where it acts after it
    # of one call
    Panels projected              # (U, G*H): x Wx + b, with an index; else in `gates`
    Panels b_panels, bh_panels    # (1, G*H)
    # operands of products that are rounded; else x, h_in and reset_h are read themselves, and those of da
    # are das, das_hidden and das_sum
    Matrix x_operand              # (block or U, D): x
    Matrix h_operand              # (2 N, H): h_in of a step, and of the next one
    Matrix reset_operand          # (N, H): reset_h of a step
    Panels das_rows, das_hidden_rows    # (chunk, G*H), (chunk, H): das, das_hidden, the first operand
    Panels das_columns, das_hidden_columns  # the same, the second one
    Panels das_sum_rows, das_sum_columns    # (U, G*H): das_sum likewise
    Matrix Wx_now, Wh_now         # IN (D, G*H), (H, G*H): as they are in backward
    Panels WhT, WxT               # (G*P*width, H), (G*P*width, D)
    Panels das                    # (chunk, G*H): da of the steps of a chunk
    Panels das_hidden             # (chunk, H)
    Panels das_sum                # (U, G*H): da summed by row of x, with an index
    void* das_rest                # what rounding took from it, or NULL
    Sums dWx[MOST_GROUPS]         # OUT (D, G*H); this and what follows: or of NULL
    Sums dWh[MOST_GROUPS]         # OUT (H, G*H)
    Sums db[MOST_GROUPS]          # OUT (1, G*H)
    Sums dbh[MOST_GROUPS]         # OUT (1, G*H), where it is not db
    States dstates                # (S, N, H): gradients of the states
    States zoned                  # (S, N, H): what zoneout takes of them past the cell
    States reached                # (1, N, H): gradient of h_in
    Matrix dfirst[MOST_STATES]    # OUT (N, H): gradients of the initial states
    void* scratch                 # (threads, scratch)


ctypedef struct Range:
    Py_ssize_t begin, end

ctypedef struct Share:
    int threads
    Range rows                    # of the batch
    Range panels                  # of each group of gates, and so units
    Range outputs                 # panels of h, where it is a product with Wh^T
    Range x_rows, h_rows          # of dWx, and of dWh
    bint sums_biases              # db and dbh: the last thread, whose rows may be fewer


cdef inline Sizes layer_sizes(
    const Simd* simd, int cell, Py_ssize_t S, Py_ssize_t D, Py_ssize_t H,
) noexcept nogil:
    """The sizes that depend on the cell and the weights."""
    cdef Sizes s
    cdef Cell gates = cell_of(cell)
    memset(&s, 0, sizeof(s))
    s.simd, s.cell, s.reset, s.groups = simd, cell, gates.reset, gates.gates // gates.together
    s.S, s.D, s.H, s.width = S, D, H, 4 * simd.lanes
    s.columns = columns_of(gates.together, H, simd.lanes)
    s.inputs, s.units = columns_of(1, D, simd.lanes), columns_of(1, H, simd.lanes)
    s.P = s.columns.panels
    s.x_row, s.h_row = padded(D, simd.number), padded(H, simd.number)
    return s


cdef inline Range range_of(
    Py_ssize_t n, Py_ssize_t unit, int thread, int threads,
) noexcept nogil:
    """The share of a thread in n things."""
    return Range(part(n, unit, thread, threads), part(n, unit, thread + 1, threads))


cdef inline Share share_of(const Sizes* s, int thread, int threads) noexcept nogil:
    """What is dealt out to one thread, but for rows of the batch."""
    cdef Share share
    share.threads = threads
    share.panels = range_of(s.P, 1, thread, threads)
    share.outputs = range_of(s.units.panels, 1, thread, threads)
    share.x_rows = range_of(s.D, ROWS, thread, threads)
    share.h_rows = range_of(s.H, ROWS, thread, threads)
    share.sums_biases = thread == threads - 1
    share.rows = Range(0, s.N)
    return share


cdef inline Py_ssize_t count(const Sizes* s, Py_ssize_t t) noexcept nogil:
    """Rows of step t."""
    return s.N if s.counts == NULL else s.counts[t] if t < s.T else 0


cdef inline Py_ssize_t first(const Sizes* s, Py_ssize_t t) noexcept nogil:
    """The row at which step t begins."""
    return t * s.N if s.firsts == NULL else s.firsts[t]


cdef inline Py_ssize_t batch_row(const Sizes* s, Py_ssize_t n) noexcept nogil:
    """Row n in the arrays of the caller."""
    return n if s.order == NULL else s.order[n]


cdef inline Py_ssize_t time_of(const Sizes* s, Py_ssize_t t, Py_ssize_t n) noexcept nogil:
    """Step t of row n in the arrays of the caller."""
    if not s.reverse:
        return t
    return (s.T if s.lengths == NULL else s.lengths[n]) - 1 - t


cdef inline void* place(
    const Sizes* s, const Sequence* sequence, Py_ssize_t t, Py_ssize_t n,
) noexcept nogil:
    """Where step t of row n stands in an array of the caller."""
    cdef Py_ssize_t time = time_of(s, t, n)
    if s.flat:
        return moved(s.simd, sequence.at, (first(s, time) + n) * sequence.t)
    return moved(s.simd, sequence.at, batch_row(s, n) * sequence.n + time * sequence.t)


cdef inline void clear_beyond(
    const Sizes* s, const Sequence* sequence, Py_ssize_t J, Range rows,
) noexcept nogil:
    """0 beyond the lengths of some rows, in an array of the caller."""
    cdef Py_ssize_t n, t
    if s.flat or s.R == s.N * s.T_all:
        return
    for n in range(rows.begin, rows.end):
        for t in range(s.T if s.lengths == NULL else s.lengths[n], s.T_all):
            s.simd.fill(J, 0, moved(s.simd, sequence.at,
                                    batch_row(s, n) * sequence.n + t * sequence.t))


cdef inline int64_t x_row_of(
    const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t n,
) noexcept nogil:
    """Which row of x step t of row n uses, with an index."""
    return mem.index[batch_row(s, n) * mem.index_row + time_of(s, t, n)]


cdef inline bint begins(
    const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t n,
) noexcept nogil:
    """Whether no state enters step t of row n, since a sequence begins there (or, in reverse, did
    so at the step before)."""
    if mem.resets == NULL or (s.reverse and t == 0):
        return False
    return mem.resets[batch_row(s, n) * mem.resets_row + time_of(s, t, n) + s.reverse]


cdef inline Matrix columns_of_group(const Sizes* s, Matrix W, Py_ssize_t g) noexcept nogil:
    """The columns of W of a group of gates, if there is a W."""
    if W.at == NULL:
        return W
    return Matrix(moved(s.simd, W.at, g * s.columns.used * W.column), W.row, W.column)


cdef inline void* row_at(
    const Sizes* s, const Matrix* rows, Py_ssize_t n, Py_ssize_t unit,
) noexcept nogil:
    """Row n of a state, in an array of the caller, from a unit on."""
    return moved(s.simd, rows.at, batch_row(s, n) * rows.row + unit)


cdef inline States states_from(
    const Sizes* s, const States* states, Py_ssize_t m, Py_ssize_t unit,
) noexcept nogil:
    """States from row m and from a unit on."""
    return States(moved(s.simd, states.at, m * states.row + unit), states.row, states.state)


cdef inline void* state_at(
    const Sizes* s, const States* states, Py_ssize_t k, Py_ssize_t m, Py_ssize_t unit,
) noexcept nogil:
    """State k of row m from a unit on."""
    return moved(s.simd, states.at, k * states.state + m * states.row + unit)


cdef inline Range rows_between(
    const Sizes* s, Py_ssize_t begin, Py_ssize_t end, int thread, int threads,
) noexcept nogil:
    """The rows of the batch of a thread in steps begin ... end - 1: as many steps for each."""
    if s.counts == NULL:
        return range_of(s.N, 1, thread, threads)
    cdef Py_ssize_t total = first(s, end) - first(s, begin), n = 0, so_far = 0
    cdef Range rows = Range(0, 0)
    while n < s.N and so_far * threads < total * thread:
        so_far += max(0, min(s.lengths[n], end) - begin)
        n += 1
    rows.begin = n
    while n < s.N and so_far * threads < total * (thread + 1):
        so_far += max(0, min(s.lengths[n], end) - begin)
        n += 1
    rows.end = s.N if thread == threads - 1 else n
    return rows


cdef inline Share share_of_steps(
    const Sizes* s, Share share, Py_ssize_t begin, Py_ssize_t end, int thread,
) noexcept nogil:
    """The same in the loop over some steps: rows of the batch and all units, or units and all
    rows."""
    if s.by_rows:
        share.rows = rows_between(s, begin, end, thread, share.threads)
        share.panels = Range(0, s.P)
        share.outputs = Range(0, s.units.panels)
    return share
