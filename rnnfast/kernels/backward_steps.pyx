"""A recurrent layer back through time, for every cell. See block.pxd for the names.

    da_t = cell'(dh_t);  dh_{t-1} = dhs_{t-1} + da_t Wh^T        step by step, back
    dWx = x^T da;  db = 1^T da;  dWh = h^T da;  dx = da Wx^T     chunk by chunk

Chunks of steps are short enough that what a step writes last is still in a cache when the products
for all steps of the chunk read it; then their memory is used again. What is done for a chunk at
once is dealt out by rows, or by rows of the gradients.
"""

from libc.string cimport memcpy, memset

from .block cimport (
    Memory, Range, Share, Sizes, batch_row, begins, clear_beyond, columns_of_group, count, first,
    place, range_of, share_of, share_of_steps, state_at, states_from, x_row_of,
)
from .engine cimport (
    NO_RESET, RESET_AFTER, RESET_BEFORE, ROWS, Gates, Matrix, Panels, States, barrier, moved, words,
    zeros,
)
from .panels cimport computed, from_row, pack_transposed, rows_in_panels, units_of
from .products cimport across, product, product_plus, round_panel_rows, round_panels
from .sums cimport Sums, gradient, settle

cdef void backward_task(
    const Sizes* s, const Memory* mem, int thread, int threads,
) noexcept nogil:
    """What one thread does: chunk after chunk, from the last step to the first."""
    cdef Share share = share_of(s, thread, threads)
    cdef Range h_rows = share.h_rows, rows
    cdef Range inputs = range_of(s.inputs.panels, 1, thread, threads)
    cdef Py_ssize_t begin, end = s.T, m, n, g
    cdef bint begun = False
    cdef Sums dW
    cdef Matrix x
    cdef void* scratch = moved(s.simd, mem.scratch, thread * s.scratch)

    for g in range(s.groups):
        pack_transposed(s.simd, columns_of_group(s, mem.Wh_now, g), s.H, s.columns, share.outputs.begin,
                        share.outputs.end, _rows_of_group(s, mem.WhT, g))
        if s.need_dx:
            pack_transposed(s.simd, columns_of_group(s, mem.Wx_now, g), s.D, s.columns, inputs.begin,
                            inputs.end, _rows_of_group(s, mem.WxT, g))
        if s.indexed:
            memset(from_row(s.simd, mem.das_sum, 0, g * s.P + share.panels.begin).at, 0,
                   (share.panels.end - share.panels.begin) * mem.das_sum.panel * s.simd.number)
    barrier(threads)
    while end > 0:
        begin = _begin_of_chunk(s, end)
        m, n = first(s, begin), first(s, end) - first(s, begin)
        _steps(s, mem, share_of_steps(s, share, begin, end, thread), begin, end)
        barrier(threads)
        if s.simd.rounds:
            _round_columns(s, mem, share.panels, n)
            barrier(threads)
        # dWh = h^T da;  dWx = x^T da;  db = 1^T da;  dx = da Wx^T
        for g in range(s.groups):
            dW = mem.dWh[g]
            dW.begun = begun
            gradient(s.simd, h_rows.begin, h_rows.end, n, _h_of_group(s, mem, g, m),
                     _of_h(s, g, mem.das_columns, mem.das_hidden_columns), dW, scratch)
            if s.reset == RESET_AFTER and share.sums_biases:
                _bias_gradient(s, n, _of_h(s, g, mem.das, mem.das_hidden), mem.dbh[g], begun, scratch)
        if s.indexed:
            _sum_by_row(s, mem, share.panels, begin, end)
        else:
            x = Matrix(moved(s.simd, mem.x.at, m * mem.x.row), mem.x.row, 1)
            _weight_gradients(s, mem, &share, n, x, mem.das, mem.das_columns, begun, scratch)
            if s.need_dx:
                rows = range_of(n, ROWS, thread, threads)
                _input_gradient(s, mem, rows, begin, mem.das_rows, scratch)
        begun = True
        end = begin
        barrier(threads)
    if s.indexed:
        _finish_sums(s, mem, share.panels)
        barrier(threads)
        _weight_gradients(s, mem, &share, s.U, mem.x, mem.das_sum, mem.das_sum_columns, False, scratch)
        if s.need_dx:
            _input_gradient(s, mem, range_of(s.U, ROWS, thread, threads), 0, mem.das_sum_rows, scratch)
    elif s.need_dx and not s.adds_dx:
        clear_beyond(s, &mem.dxs, s.D, range_of(s.N, 1, thread, threads))
    for g in range(s.groups):
        settle(s.simd, h_rows.begin, h_rows.end, mem.dWh[g])
        settle(s.simd, share.x_rows.begin, share.x_rows.end, mem.dWx[g])
        if share.sums_biases:
            settle(s.simd, 0, 1, mem.db[g])
            if s.reset == RESET_AFTER:
                settle(s.simd, 0, 1, mem.dbh[g])


cdef inline Panels _rows_of_group(const Sizes* s, Panels WT, Py_ssize_t g) noexcept nogil:
    """The rows of Wh^T or Wx^T of a group of gates."""
    return from_row(s.simd, WT, g * s.P * s.width, 0)


cdef inline Panels _of_h(
    const Sizes* s, Py_ssize_t g, Panels das, Panels das_hidden,
) noexcept nogil:
    """The gradients of h Wh of a group of gates."""
    if s.reset == RESET_AFTER and g == s.groups - 1:
        return das_hidden
    return from_row(s.simd, das, 0, g * s.P)


cdef void _round_rows(
    const Sizes* s, const Memory* mem, Py_ssize_t g, Range panels, Py_ssize_t c, Py_ssize_t rows,
) noexcept nogil:
    """The gradients of a group of gates, rows c ... of the chunk, for the products of these rows."""
    round_panel_rows(s.simd, c, c + rows, panels.begin, panels.end, s.columns,
                     from_row(s.simd, mem.das, 0, g * s.P),
                     from_row(s.simd, mem.das_rows, 0, g * s.P))
    if s.reset == RESET_AFTER and g == s.groups - 1:
        round_panel_rows(s.simd, c, c + rows, panels.begin, panels.end, s.columns, mem.das_hidden,
                         mem.das_hidden_rows)


cdef void _round_columns(
    const Sizes* s, const Memory* mem, Range panels, Py_ssize_t rows,
) noexcept nogil:
    """The gradients of all steps of a chunk, for those of weights."""
    cdef Py_ssize_t g
    for g in range(s.groups):
        round_panels(s.simd, rows, g * s.P + panels.begin, g * s.P + panels.end, mem.das,
                     mem.das_columns)
    if s.reset == RESET_AFTER:
        round_panels(s.simd, rows, panels.begin, panels.end, mem.das_hidden, mem.das_hidden_columns)


cdef inline Matrix _h_of_group(
    const Sizes* s, const Memory* mem, Py_ssize_t g, Py_ssize_t m,
) noexcept nogil:
    """What was multiplied with Wh of a group of gates, from row m on."""
    if s.reset == RESET_BEFORE and g == s.groups - 1:
        return Matrix(state_at(s, &mem.reset_h, 0, m, 0), s.h_row, 1)
    return Matrix(state_at(s, &mem.h_in, 0, m, 0), s.h_row, 1)


cdef inline Py_ssize_t _begin_of_chunk(const Sizes* s, Py_ssize_t end) noexcept nogil:
    """Steps before `end` have `chunk` rows at most, but one step is always there."""
    cdef Py_ssize_t begin = end - 1
    if s.firsts == NULL:
        return max(0, end - max(1, s.chunk // s.N))
    while begin > 0 and first(s, end) - first(s, begin - 1) <= s.chunk:
        begin -= 1
    return begin


cdef void _weight_gradients(
    const Sizes* s, const Memory* mem, const Share* share, Py_ssize_t rows, Matrix x, Panels das,
    Panels das_columns, bint begun, void* scratch,
) noexcept nogil:
    """dWx = x^T da, db = 1^T da for rows of x that belong to rows of the gradients."""
    cdef Sums dW
    cdef Py_ssize_t g
    for g in range(s.groups):
        dW = mem.dWx[g]
        dW.begun = begun
        gradient(s.simd, share.x_rows.begin, share.x_rows.end, rows, x,
                 from_row(s.simd, das_columns, 0, g * s.P), dW, scratch)
        if share.sums_biases:
            _bias_gradient(s, rows, from_row(s.simd, das, 0, g * s.P), mem.db[g], begun, scratch)


cdef void _bias_gradient(
    const Sizes* s, Py_ssize_t rows, Panels das, Sums db, bint begun, void* scratch,
) noexcept nogil:
    """db = 1^T da, which is no product: nothing is rounded"""
    cdef char one[8]              # in any format; a column of ones is this one, again and again
    s.simd.fill(1, 1, &one[0])
    db.begun = begun
    gradient(s.simd.exact, 0, 1, rows, Matrix(&one[0], 0, 1), das, db, scratch)


cdef void _steps(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t begin, Py_ssize_t end,
) noexcept nogil:
    """da_t = cell'(dh_t);  dh_{t-1} = dhs_{t-1} + da_t Wh^T"""
    cdef Py_ssize_t per_panel = s.columns.units, n0 = share.rows.begin, rows, t, m, n, k
    cdef Range units = Range(min(share.panels.begin * per_panel, s.H),
                             min(share.panels.end * per_panel, s.H))
    # whether what reaches h_in is not simply all that reaches h
    cdef bint by_row = s.enters or s.masked or s.reset == RESET_BEFORE
    cdef bint cut
    for t in range(end - 1, begin - 1, -1):
        rows = min(share.rows.end, count(s, t)) - n0
        if rows <= 0:
            continue
        m = first(s, t) + n0
        # rows whose last step this is
        n = 0 if t + 1 == s.T else max(0, min(share.rows.end, count(s, t + 1)) - n0)
        while n < rows and mem.dhs.at != NULL:
            s.simd.add(units.end - units.begin,
                       moved(s.simd, place(s, &mem.dhs, t, n0 + n), units.begin),
                       state_at(s, &mem.dstates, 0, n0 + n, units.begin))
            n += 1
        if s.zoned:
            _split_gradients(s, mem, t, n0, rows, units)
        _cell(s, mem, share, m, m - first(s, begin), n0, rows)
        if s.zoned:
            _return_gradients(s, mem, n0, rows, units)
        if not s.by_rows:
            barrier(share.threads)
        cut = t > 0 and s.truncate > 0 and t % s.truncate == 0
        if not cut:
            _product(s, mem, share, t, m - first(s, begin), n0, rows, by_row)
        if cut or by_row:
            _merge(s, mem, share, t, n0, rows, cut)
        if not s.by_rows:
            barrier(share.threads)


cdef void _cell(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t m, Py_ssize_t c, Py_ssize_t n0,
    Py_ssize_t rows,
) noexcept nogil:
    """The gradients of rows m ... of the gates, rows c ... of the chunk, and what the states
    before get directly."""
    cdef Py_ssize_t per_panel = s.columns.units, p, g, last = (s.groups - 1) * s.P
    cdef Py_ssize_t first_unit = share.outputs.begin * s.width
    cdef Py_ssize_t units = min(share.outputs.end * s.width, s.H) - first_unit
    cdef Gates gates, das
    cdef States before, after, gradients
    gates.gate, das.gate = s.P * mem.gates.panel, s.P * mem.das.panel
    for p in range(share.panels.begin, share.panels.end):
        _gates_of(s, mem, m, c, p, &gates, &das)
        before = states_from(s, &mem.entering, m, p * per_panel)
        after = states_from(s, &mem.made, m, p * per_panel)
        gradients = states_from(s, &mem.dstates, n0, p * per_panel)
        s.simd.backward[s.cell](rows, units_of(s.columns, p), &gates, &before, &after, &gradients,
                                &das)
    for g in range(s.groups - 1 if s.reset == RESET_BEFORE else 0, s.groups):
        _round_rows(s, mem, g, share.panels, c, rows)
    if s.reset != RESET_BEFORE:
        return
    # d(r h) = da_g Whh^T;  then da_r, and what reaches h by way of r h
    if not s.by_rows:
        barrier(share.threads)
    if units > 0:
        product(s.simd, rows, units, words(s.simd, s.H),
                across(from_row(s.simd, mem.das_rows, c, last)),
                from_row(s.simd, mem.WhT, last * s.width, share.outputs.begin), zeros(),
                rows_in_panels(s.simd, state_at(s, &mem.reached, 0, n0, first_unit), s.h_row))
    for p in range(share.panels.begin, share.panels.end):
        _gates_of(s, mem, m, c, p, &gates, &das)
        before = states_from(s, &mem.h_in, m, p * per_panel)
        gradients = states_from(s, &mem.reached, n0, p * per_panel)
        s.simd.gru_reset_backward(rows, units_of(s.columns, p), &gates, &before, &gradients, &das)
    for g in range(s.groups - 1):
        _round_rows(s, mem, g, share.panels, c, rows)


cdef inline void _gates_of(
    const Sizes* s, const Memory* mem, Py_ssize_t m, Py_ssize_t c, Py_ssize_t p, Gates* gates,
    Gates* das,
) noexcept nogil:
    """Panel p of rows m ... and of their gradients."""
    gates.at = from_row(s.simd, mem.gates, m, p).at
    das.at = from_row(s.simd, mem.das, c, p).at
    if s.reset == RESET_AFTER:
        gates.hidden = from_row(s.simd, mem.hidden, m, p).at
        das.hidden = from_row(s.simd, mem.das_hidden, c, p).at


cdef void _product(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t t, Py_ssize_t c, Py_ssize_t n0,
    Py_ssize_t rows, bint by_row,
) noexcept nogil:
    """da_t Wh^T, from rows c ... of the chunk: added to all else that reaches h, or, by row, what
    reaches h_in."""
    cdef Py_ssize_t unit = share.outputs.begin * s.width, g
    cdef Py_ssize_t units = min(share.outputs.end * s.width, s.H) - unit
    cdef Py_ssize_t groups = s.groups - (s.reset == RESET_BEFORE)
    cdef Panels init = zeros(), out
    cdef const Panels* plus = NULL
    if units <= 0:
        return
    if by_row:
        out = rows_in_panels(s.simd, state_at(s, &mem.reached, 0, n0, unit), s.h_row)
        if s.reset == RESET_BEFORE:
            init = out
    else:
        out = rows_in_panels(s.simd, state_at(s, &mem.dstates, 0, n0, unit), s.h_row)
        if t > 0 and mem.dhs.at != NULL:
            init = rows_in_panels(
                s.simd, moved(s.simd, place(s, &mem.dhs, t - 1, n0), unit), mem.dhs.n)
        if s.zoned or s.reset != NO_RESET:
            plus = &out           # what it gets directly
    for g in range(groups):
        product_plus(s.simd, rows, units, words(s.simd, s.columns.used),
                     across(from_row(s.simd, _of_h(s, g, mem.das_rows, mem.das_hidden_rows), c, 0)),
                     from_row(s.simd, _rows_of_group(s, mem.WhT, g), 0, share.outputs.begin), init,
                     plus, out)
        init, plus = out, NULL


cdef void _merge(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t t, Py_ssize_t n0, Py_ssize_t rows,
    bint cut,
) noexcept nogil:
    """dh_{t-1} = dhs_{t-1} + what h gets directly + mask (what h_in gets), row by row; where nothing
    flows from step t into the one before, dh_{t-1} = dhs_{t-1} and, of other states, dc = 0."""
    cdef Py_ssize_t per_panel = s.columns.units, n, k
    cdef Py_ssize_t unit = share.outputs.begin * s.width
    cdef Py_ssize_t units = max(0, min(share.outputs.end * s.width, s.H) - unit)
    cdef Py_ssize_t c_unit = min(share.panels.begin * per_panel, s.H)
    cdef Py_ssize_t c_units = min(share.panels.end * per_panel, s.H) - c_unit
    cdef void* dh
    cdef void* reached
    for n in range(n0, n0 + rows):
        dh = state_at(s, &mem.dstates, 0, n, unit)
        reached = state_at(s, &mem.reached, 0, n, unit)
        if cut or begins(s, mem, t, n):
            s.simd.fill(units, 0, dh)
            for k in range(1, s.S):
                s.simd.fill(c_units, 0, state_at(s, &mem.dstates, k, n, c_unit))
        else:
            if s.masked:
                s.simd.multiply(units, moved(s.simd, mem.mask, batch_row(s, n) * s.H + unit),
                                reached, reached)
            if s.zoned or s.reset != NO_RESET:
                s.simd.add(units, reached, dh)
            else:
                memcpy(dh, reached, units * s.simd.number)
        if t > 0 and mem.dhs.at != NULL:
            s.simd.add(units, moved(s.simd, place(s, &mem.dhs, t - 1, n), unit), dh)


cdef void _split_gradients(
    const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t n0, Py_ssize_t rows, Range units,
) noexcept nogil:
    """Of the gradients of the states that a step leaves, what is that of the states made, and aside
    what goes on to the states before."""
    cdef Py_ssize_t k, n, u = units.begin
    for k in range(s.S):
        for n in range(n0, n0 + rows):
            if mem.zoneouts[k].at == NULL:
                s.simd.fill(units.end - u, 0, state_at(s, &mem.zoned, k, n, u))
            else:
                s.simd.divide(units.end - u, moved(s.simd, place(s, &mem.zoneouts[k], t, n), u),
                              state_at(s, &mem.dstates, k, n, u), state_at(s, &mem.zoned, k, n, u))


cdef void _return_gradients(
    const Sizes* s, const Memory* mem, Py_ssize_t n0, Py_ssize_t rows, Range units,
) noexcept nogil:
    """What went on is part of what the states before get directly."""
    cdef Py_ssize_t k, n, u = units.begin
    for k in range(s.S):
        for n in range(n0, n0 + rows):
            if k == 0 and s.reset == NO_RESET:  # nothing of h is there so far
                memcpy(state_at(s, &mem.dstates, k, n, u), state_at(s, &mem.zoned, k, n, u),
                       (units.end - u) * s.simd.number)
            else:
                s.simd.add(units.end - u, state_at(s, &mem.zoned, k, n, u),
                           state_at(s, &mem.dstates, k, n, u))


cdef void _sum_by_row(
    const Sizes* s, const Memory* mem, Range panels, Py_ssize_t begin, Py_ssize_t end,
) noexcept nogil:
    """Adds da of steps begin ... end - 1 to the sums for the rows of x that they used."""
    cdef Py_ssize_t g, p, t, n, at
    cdef void* da
    for g in range(s.groups):
        for p in range(g * s.P + panels.begin, g * s.P + panels.end):
            for t in range(begin, end):
                for n in range(count(s, t)):
                    da = from_row(s.simd, mem.das, first(s, t) - first(s, begin) + n, p).at
                    at = x_row_of(s, mem, t, n) * s.width + p * mem.das_sum.panel
                    if mem.das_rest == NULL:
                        s.simd.add(s.width, da, moved(s.simd, mem.das_sum.at, at))
                    else:
                        s.simd.add_exactly(s.width, da, moved(s.simd, mem.das_sum.at, at),
                                           moved(s.simd, mem.das_rest, at))


cdef void _finish_sums(const Sizes* s, const Memory* mem, Range panels) noexcept nogil:
    """Adds what rounding took from the sums by row, and makes operands of them."""
    cdef Py_ssize_t g, at
    for g in range(s.groups):
        at = (g * s.P + panels.begin) * mem.das_sum.panel
        if mem.das_rest != NULL:
            s.simd.add((panels.end - panels.begin) * mem.das_sum.panel,
                       moved(s.simd, mem.das_rest, at), moved(s.simd, mem.das_sum.at, at))
        if s.need_dx:
            round_panel_rows(s.simd, 0, s.U, panels.begin, panels.end, s.columns,
                             from_row(s.simd, mem.das_sum, 0, g * s.P),
                             from_row(s.simd, mem.das_sum_rows, 0, g * s.P))
        round_panels(s.simd, s.U, g * s.P + panels.begin, g * s.P + panels.end, mem.das_sum,
                     mem.das_sum_columns)


cdef void _input_gradient(
    const Sizes* s, const Memory* mem, Range rows, Py_ssize_t begin, Panels das_rows, void* scratch,
) noexcept nogil:
    """dx = da Wx^T for some rows of da, whose row 0 is the first of step `begin`, or of all rows of
    x, by way of a block of them."""
    cdef Py_ssize_t row = computed(s.inputs), m = rows.begin, n, r, g, t = begin
    cdef Panels init
    cdef void* out
    while m < rows.end:
        n = min(DX_ROWS, rows.end - m)
        init = zeros()
        for g in range(s.groups):
            product(s.simd, n, row, words(s.simd, s.columns.used),
                    across(from_row(s.simd, das_rows, m, g * s.P)),
                    _rows_of_group(s, mem.WxT, g), init, rows_in_panels(s.simd, scratch, row))
            init = rows_in_panels(s.simd, scratch, row)
        for r in range(m, m + n):
            if s.indexed:
                out = moved(s.simd, mem.dxs.at, r * mem.dxs.t)
            else:
                while first(s, t + 1) - first(s, begin) <= r:
                    t += 1
                out = place(s, &mem.dxs, t, r + first(s, begin) - first(s, t))
            if s.adds_dx:
                s.simd.add(s.D, moved(s.simd, scratch, (r - m) * row), out)
            else:
                memcpy(out, moved(s.simd, scratch, (r - m) * row), s.D * s.simd.number)
        m += n
