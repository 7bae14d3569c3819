"""A recurrent layer forward, for every cell. See block.pxd for the names.

    a = x Wx + b                                    for a block of steps at once
    a_t += h_{t-1} Wh;  h_t = cell(a_t)             step by step

Pre-activations and gates stand in panels: those of a few units for all gates, side by side, or for
each gate in a group of panels of its own. So storing them is packing them for the weight gradients,
and a cell finds its gates in one row, or in as many as it has gates.

Threads take rows of the batch, which never wait for each other between the steps of a block (nor
between blocks, where they project their own rows alone), or, where there are few rows, units, which
do.
"""

from libc.string cimport memcpy

from .block cimport (
    Memory, Range, Share, Sizes, batch_row, begins, clear_beyond, columns_of_group, count, first,
    place, range_of, row_at, share_of, share_of_steps, state_at, states_from, x_row_of,
)
from .engine cimport (
    RESET_AFTER, RESET_BEFORE, ROWS, Gates, Matrix, Panels, States, Walk, barrier, below, moved,
)
from .panels cimport computed, from_row, pack, units_of
from .products cimport pack_weights, product_with, round_rows, rows_of

cdef enum:
    FIRST_LEVEL = 16384           # bytes of a first-level cache for gates of a step


cdef void forward_task(
    const Sizes* s, const Memory* mem, int thread, int threads,
) noexcept nogil:
    """What one thread does."""
    cdef Share share = share_of(s, thread, threads), steps
    cdef Range rows = range_of(s.U, ROWS, thread, threads)
    cdef Py_ssize_t begin = 0, end, m
    # the row of all steps that stands in row 0 of the memory, now and in the block before
    cdef Py_ssize_t origin = 0, before = 0
    pack_layer(s, mem, share.panels)
    barrier(threads)
    if s.indexed:
        for m in range(rows.begin, rows.end):
            if mem.used[m]:
                _copy_x(s, mem, moved(s.simd, mem.xs.at, m * mem.xs.t), m)
            else:                 # 0 times NaN would reach the gradient of Wx
                s.simd.fill(s.D, 0, moved(s.simd, mem.x.at, m * mem.x.row))
        round_x(s, mem, rows, 0)
        project(s, mem, rows, 0, Range(0, s.P), mem.projected)
        barrier(threads)
    while begin < s.T:
        end = _end_of_block(s, begin)
        if s.alone:
            steps = share_of_steps(s, share, 0, s.T, thread)
            rows = steps.rows
        else:
            steps = share_of_steps(s, share, begin, end, thread)
            rows = range_of(count(s, begin), 1, thread, threads)
        if not s.kept:
            if begin > 0 and not s.alone:
                barrier(threads)  # the others may still be in the block whose memory this is
            before, origin = origin, first(s, begin)
        if begin == 0 or not s.kept:
            rows.end = min(rows.end, count(s, begin))
            _enter(s, mem, begin, before, origin, rows, Range(0, s.H))
        if not s.indexed:
            _project_block(s, mem, steps, begin, end, origin, thread)
        if not s.alone:
            barrier(threads)
        _steps(s, mem, steps, begin, end, origin)
        begin = end
    if mem.hs.at != NULL:
        clear_beyond(s, &mem.hs, s.H, range_of(s.N, 1, thread, threads))


cdef void pack_layer(const Sizes* s, const Memory* mem, Range panels) noexcept nogil:
    """Some panels of every group of gates: biases, and of weights what is not read where it
    stands."""
    cdef Py_ssize_t p, g, width = s.width
    cdef bint apart               # whether something comes between x Wx + b and h Wh + bh
    for g in range(s.groups):
        pack_weights(&mem.Wx[g], panels.begin, panels.end)
        pack_weights(&mem.Wh[g], panels.begin, panels.end)
        _pack_bias(s, mem.b, g, panels, mem.b_panels)
        apart = s.reset == RESET_AFTER and g == s.groups - 1
        if mem.bh.at != NULL or apart:
            _pack_bias(s, mem.bh, g, panels, mem.bh_panels)
        if mem.bh.at != NULL and not apart:
            for p in range(g * s.P + panels.begin, g * s.P + panels.end):
                s.simd.add(width, from_row(s.simd, mem.bh_panels, 0, p).at,
                           from_row(s.simd, mem.b_panels, 0, p).at)


cdef void _pack_bias(
    const Sizes* s, Matrix b, Py_ssize_t g, Range panels, Panels packed,
) noexcept nogil:
    """Some panels of a group of gates; zeros where there is no b."""
    cdef Panels of_group = from_row(s.simd, packed, 0, g * s.P)
    if b.at == NULL:
        s.simd.fill((panels.end - panels.begin) * s.width, 0,
                    from_row(s.simd, of_group, 0, panels.begin).at)
    else:
        pack(s.simd, columns_of_group(s, b, g), 1, s.columns, panels.begin, panels.end, of_group)


cdef inline Panels _one_row(const Sizes* s, Panels biases, Py_ssize_t p) noexcept nogil:
    """Biases from panel p on, for any number of rows."""
    cdef Panels row = from_row(s.simd, biases, 0, p)
    row.row = 0
    return row


cdef inline void _copy_x(
    const Sizes* s, const Memory* mem, const void* source, Py_ssize_t m,
) noexcept nogil:
    """A row of x to row m."""
    memcpy(moved(s.simd, mem.x.at, m * mem.x.row), source, s.D * s.simd.number)


cdef void _project_block(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t begin, Py_ssize_t end,
    Py_ssize_t origin, int thread,
) noexcept nogil:
    """The projections that a thread makes in a block: of its own rows, step by step, or of a share
    in all rows of all steps, or of its units."""
    cdef Py_ssize_t t = begin, m, n, at, base = first(s, begin) - origin
    cdef Range rows
    if s.alone:
        for t in range(begin, end):
            at = first(s, t) - origin
            for n in range(share.rows.begin,
                           0 if s.x_stays else min(share.rows.end, count(s, t))):
                _copy_x(s, mem, place(s, &mem.xs, t, n), at + n)
            rows = Range(at + share.rows.begin, at + min(share.rows.end, count(s, t)))
            round_x(s, mem, rows, base)
            project(s, mem, rows, base, Range(0, s.P), mem.gates)
        return
    rows = range_of(first(s, end) - first(s, begin), ROWS, thread, share.threads)
    rows = Range(base + rows.begin, base + rows.end)
    for m in range(rows.begin, 0 if s.x_stays else rows.end):
        while first(s, t + 1) - origin <= m:
            t += 1
        _copy_x(s, mem, place(s, &mem.xs, t, m + origin - first(s, t)), m)
    round_x(s, mem, rows, base)
    if s.by_rows:
        project(s, mem, rows, base, Range(0, s.P), mem.gates)
    else:
        barrier(share.threads)
        project(s, mem, Range(base, base + first(s, end) - first(s, begin)), base, share.panels,
                mem.gates)


cdef inline Matrix _x_from(const Sizes* s, const Memory* mem, Py_ssize_t base) noexcept nogil:
    """Where x stands as an operand, from its row 0 on: copies of rows from `base` on."""
    if not mem.Wx[0].simd.rounds:
        return mem.x
    return below(s.simd, mem.x_operand, -base)


cdef void round_x(const Sizes* s, const Memory* mem, Range rows, Py_ssize_t base) noexcept nogil:
    """Some rows of x as an operand, where copies of rows from `base` on stand."""
    round_rows(mem.Wx[0].simd, rows.begin, rows.end, s.D, mem.x, _x_from(s, mem, base))


cdef void project(
    const Sizes* s, const Memory* mem, Range rows, Py_ssize_t base, Range panels, Panels projected,
) noexcept nogil:
    """a = x Wx + b for some rows, in some panels of every group of gates."""
    cdef Py_ssize_t g, p = panels.begin
    cdef Py_ssize_t columns = min(computed(s.columns), panels.end * s.width) - p * s.width
    cdef Matrix from_ = _x_from(s, mem, base)
    cdef Walk x = rows_of(moved(s.simd, from_.at, rows.begin * from_.row), from_.row)
    for g in range(s.groups if rows.begin < rows.end and columns > 0 else 0):
        product_with(rows.end - rows.begin, columns, x, &mem.Wx[g], p,
                     _one_row(s, mem.b_panels, g * s.P + p),
                     from_row(s.simd, projected, rows.begin, g * s.P + p))


cdef inline Py_ssize_t _end_of_block(const Sizes* s, Py_ssize_t begin) noexcept nogil:
    """Steps from `begin` on have `block` rows at most, but one step is always there."""
    cdef Py_ssize_t end = begin + 1
    if s.firsts == NULL:
        return min(s.T, begin + max(1, s.block // s.N))
    while end < s.T and first(s, end + 1) - first(s, begin) <= s.block:
        end += 1
    return end


cdef void _steps(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t begin, Py_ssize_t end,
    Py_ssize_t origin,
) noexcept nogil:
    """a_t += h_{t-1} Wh;  h_t = cell(a_t)"""
    cdef Py_ssize_t per_panel = s.columns.units, n0 = share.rows.begin, rows, t, m
    cdef Range units = Range(min(share.panels.begin * per_panel, s.H),
                             min(share.panels.end * per_panel, s.H))
    for t in range(begin, end):
        rows = min(share.rows.end, count(s, t)) - n0
        if rows <= 0:
            return                # nor are there any later
        m = first(s, t) - origin + n0
        one_step(s, mem, share, t, m, n0, rows)
        if s.zoned:
            _zone_out(s, mem, t, m, n0, rows, units)
        _leave(s, mem, t, m, n0, rows, units)
        if s.kept or t + 1 < end:
            _enter(s, mem, t + 1, origin, origin, Range(n0, min(share.rows.end, count(s, t + 1))),
                   units)
        if not s.by_rows:
            barrier(share.threads)


cdef void one_step(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t t, Py_ssize_t m, Py_ssize_t n0,
    Py_ssize_t rows,
) noexcept nogil:
    """What the cell makes of rows n0 ... of step t, whose gates are rows m ... of the memory."""
    if s.reset == RESET_BEFORE:
        _products(s, mem, share, t, m, n0, rows, 0, s.groups - 1)
        if not s.by_rows:
            barrier(share.threads)
        _products(s, mem, share, t, m, n0, rows, s.groups - 1, s.groups)
    else:
        _products(s, mem, share, t, m, n0, rows, 0, s.groups)


cdef void _products(
    const Sizes* s, const Memory* mem, Share share, Py_ssize_t t, Py_ssize_t m, Py_ssize_t n0,
    Py_ssize_t rows, Py_ssize_t first_group, Py_ssize_t end_group,
) noexcept nogil:
    """a += h Wh of some groups of gates for rows m ... of step t, and what the cell makes of it as
    soon as they are all there."""
    cdef Py_ssize_t per_panel = s.columns.units, last_column = computed(s.columns)
    cdef Py_ssize_t p, q, g, columns
    # panels whose gates are still in the first-level cache when the cell reads them
    cdef Py_ssize_t at_once = max(
        s.simd.products.panels_at_once(rows), FIRST_LEVEL // (rows * s.groups * s.width * s.simd.number))
    cdef bint ends = end_group == s.groups
    cdef States before, after, h_in, reset_h
    cdef Gates gates
    cdef Panels a, init
    cdef bint resets = s.reset == RESET_BEFORE and ends
    cdef Matrix h_rows = _reset_operand(s, mem, m, n0) if resets else _h_operand(s, mem, t, m, n0)
    cdef Walk h = rows_of(h_rows.at, h_rows.row)
    gates.gate = s.P * mem.gates.panel
    p = share.panels.begin
    while p < share.panels.end:
        q = min(p + at_once, share.panels.end)
        columns = min(last_column, q * s.width) - p * s.width
        for g in range(first_group, end_group):
            a = from_row(s.simd, mem.gates, m, g * s.P + p)
            if s.indexed:
                _gather(s, mem, t, n0, g * s.P + p, g * s.P + q, m, rows)
            init = a
            if s.reset == RESET_AFTER and g == s.groups - 1:
                init = _one_row(s, mem.bh_panels, g * s.P + p)
                a = from_row(s.simd, mem.hidden, m, p)
            product_with(rows, columns, h, &mem.Wh[g], p, init, a)
        while p < q:
            gates.at = from_row(s.simd, mem.gates, m, p).at
            if s.reset == RESET_AFTER:
                gates.hidden = from_row(s.simd, mem.hidden, m, p).at
            if ends:
                before = states_from(s, &mem.entering, m, p * per_panel)
                after = states_from(s, &mem.made, m, p * per_panel)
                s.simd.forward[s.cell](rows, units_of(s.columns, p), &gates, &before, &after)
            else:
                h_in = states_from(s, &mem.h_in, m, p * per_panel)
                reset_h = states_from(s, &mem.reset_h, m, p * per_panel)
                s.simd.gru_reset(rows, units_of(s.columns, p), &gates, &h_in, &reset_h)
                round_rows(mem.Wh[0].simd, 0, rows, units_of(s.columns, p),
                           Matrix(reset_h.at, reset_h.row, 1),
                           _from_unit(s, mem, _reset_operand(s, mem, m, n0), p * per_panel))
            p += 1


cdef inline Matrix _h_operand(
    const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t m, Py_ssize_t n0,
) noexcept nogil:
    """h_in of rows n0 ... of step t, rows m ... of the memory, as an operand. Rounded ones are kept for
    two steps: some threads may still read those of one while others make those of the next."""
    if not mem.Wh[0].simd.rounds:
        return Matrix(state_at(s, &mem.h_in, 0, m, 0), s.h_row, 1)
    return below(s.simd, mem.h_operand, t % 2 * s.N + n0)


cdef inline Matrix _reset_operand(
    const Sizes* s, const Memory* mem, Py_ssize_t m, Py_ssize_t n0,
) noexcept nogil:
    """reset_h of rows n0 ... of a step, rows m ... of the memory, as an operand."""
    if not mem.Wh[0].simd.rounds:
        return Matrix(state_at(s, &mem.reset_h, 0, m, 0), s.h_row, 1)
    return below(s.simd, mem.reset_operand, n0)


cdef inline Matrix _from_unit(
    const Sizes* s, const Memory* mem, Matrix operand, Py_ssize_t unit,
) noexcept nogil:
    """An operand from a unit on, with which a word begins."""
    return Matrix(moved(s.simd, operand.at, unit // mem.Wh[0].simd.products.together), operand.row, 1)


cdef void round_h(
    const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t m, Py_ssize_t n0, Py_ssize_t rows,
    Range units,
) noexcept nogil:
    """What enters rows n0 ... of step t, rows m ... of the memory, as an operand."""
    if mem.Wh[0].simd.rounds:
        round_rows(mem.Wh[0].simd, 0, rows, units.end - units.begin,
                   Matrix(state_at(s, &mem.h_in, 0, m, units.begin), s.h_row, 1),
                   _from_unit(s, mem, _h_operand(s, mem, t, m, n0), units.begin))


cdef void _gather(
    const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t n0, Py_ssize_t first_panel,
    Py_ssize_t end_panel, Py_ssize_t m, Py_ssize_t rows,
) noexcept nogil:
    """The projections of the rows of x that rows m ... of the gates use, rows n0 ... of step t."""
    cdef Py_ssize_t p, n
    for p in range(first_panel, end_panel):
        for n in range(rows):
            memcpy(from_row(s.simd, mem.gates, m + n, p).at,
                   from_row(s.simd, mem.projected, x_row_of(s, mem, t, n0 + n), p).at,
                   s.width * s.simd.number)


cdef void _zone_out(
    const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t m, Py_ssize_t n0, Py_ssize_t rows,
    Range units,
) noexcept nogil:
    """The states that rows m ... leave are parts of those that entered, d, and of those made."""
    cdef Py_ssize_t k, n, u = units.begin
    for k in range(s.S):
        for n in range(rows):
            if mem.zoneouts[k].at == NULL:
                memcpy(state_at(s, &mem.left, k, s.N + m + n, u),
                       state_at(s, &mem.made, k, m + n, u), (units.end - u) * s.simd.number)
            else:
                s.simd.blend(units.end - u,
                             moved(s.simd, place(s, &mem.zoneouts[k], t, n0 + n), u),
                             state_at(s, &mem.entering, k, m + n, u),
                             state_at(s, &mem.made, k, m + n, u),
                             state_at(s, &mem.left, k, s.N + m + n, u))


cdef void _leave(
    const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t m, Py_ssize_t n0, Py_ssize_t rows,
    Range units,
) noexcept nogil:
    """To the arrays of the caller: outputs of step t, and the states of rows that end with it."""
    cdef Py_ssize_t n, k, u = units.begin, numbers = (units.end - units.begin) * s.simd.number
    for n in range(0 if mem.hs.at == NULL else rows):
        memcpy(moved(s.simd, place(s, &mem.hs, t, n0 + n), u),
               state_at(s, &mem.left, 0, s.N + m + n, u), numbers)
    for n in range(max(n0, count(s, t + 1) if t + 1 < s.T else 0) - n0, rows):
        for k in range(s.S):
            memcpy(row_at(s, &mem.last[k], n0 + n, u),
                   state_at(s, &mem.left, k, s.N + m + n, u), numbers)


cdef void _enter(
    const Sizes* s, const Memory* mem, Py_ssize_t t, Py_ssize_t before, Py_ssize_t origin,
    Range rows, Range units,
) noexcept nogil:
    """What the step before has left for step t, where that is not where it is read, and as an operand:
    the memory began with row `before` of all steps, and begins with `origin` now."""
    cdef Py_ssize_t n, k, m = first(s, t) - origin, from_row_ = 0, u = units.begin
    cdef Py_ssize_t numbers = (units.end - units.begin) * s.simd.number
    cdef void* state
    cdef void* entering
    if t > 0:
        from_row_ = s.N + first(s, t - 1) - before
    if t >= s.T:
        return
    for n in range(rows.begin, rows.end if s.enters or s.masked or before != origin else 0):
        for k in range(s.S):
            state = state_at(s, &mem.left, k, from_row_ + n, u)
            entering = state_at(s, &mem.entering, k, m + n, u)
            if begins(s, mem, t, n):
                s.simd.fill(units.end - u, 0, entering)
            elif entering != state:
                memcpy(entering, state, numbers)
        if s.masked:
            s.simd.multiply(units.end - u, moved(s.simd, mem.mask, batch_row(s, n) * s.H + u),
                            state_at(s, &mem.entering, 0, m + n, u),
                            state_at(s, &mem.h_in, 0, m + n, u))
    round_h(s, mem, t, m + rows.begin, rows.begin, rows.end - rows.begin, units)
