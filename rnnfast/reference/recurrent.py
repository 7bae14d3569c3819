"""Recurrent layers: one loop over time for every cell, and each cell as two functions.

Letters: N batch rows, T time steps, D input size, H hidden size, G gates, S states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .._types import Array, Arrays, Ids
from ..cells import Cell
from .rounding import Product, product_in

Zoneouts: TypeAlias = Sequence[Array | None]
Place: TypeAlias = tuple[Ids | slice, Ids | int]
"""Rows, and the time of a step in each of them: an index of arrays (N, T, ...)."""


@dataclass
class Step:
    """What backward needs of a step that n rows have."""

    place: Place
    before: Array
    """(S, n, H): the states that entered it."""
    read: Array
    """(n, H): h_prev, as every product with Wh reads it."""
    kept: Any
    """What the cell keeps."""
    after: Array
    """(S, n, H): the states that left it."""


@dataclass
class Block:
    """What backward needs of forward: copies of arguments, and the steps as they were computed."""

    shape: tuple[int, int, int]
    """N, T, H"""
    xs: Array
    index: Ids | None
    lengths: Ids
    fresh: Array | None
    """(N, T): where zeros entered a step."""
    recurrent_mask: Array | None
    zoneouts: Zoneouts
    steps: list[Step]
    product: Product
    packed: tuple[Ids, Ids] | None = None
    """Row and time of every step in the order of packed arrays, where they are packed."""


def recurrent_forward(
    cell: Cell,
    xs: Array,
    weights: Sequence[Array | None],
    states: Sequence[Array | None] | Array | None,
    *,
    index: Ids | None = None,
    lengths: Ids | None = None,
    batch_sizes: Ids | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    recurrent_mask: Array | None = None,
    zoneouts: Zoneouts | None = None,
    need_gradient: bool = True,
    cache: Any = None,
    copy_xs: bool = True,
    copy_hs: bool = True,
    out: Array | None = None,
    last: Arrays | None = None,
    threads: int | None = None,
    precision: str | None = None,
) -> tuple[Array, Any, Any]:
    """Run a cell over a block of time steps.

    cell: one of `rnnfast.cells.KERNEL_CELLS`; xs (N, T, D); weights: Wx (D, G*H), Wh (H, G*H),
    b (G*H,), bh (G*H,), of any strides; biases may be left out or None, which is zeros, and a bh
    that the cell does not have is added to b; states: S arrays (N, H), the initial ones, or None,
    for one or all, which is zeros
    -> hs (N, T, H), the last states (S, N, H), cache

    index (N, T), int64: the input is xs[index], xs being (U, D); rows that are used often are
    projected once.
    lengths (N,), int64, 0..T in any order: row n has the steps 0..lengths[n]-1. Beyond them hs is
    0, and xs and index are not looked at. The last state of a row is that after its last step, or
    the initial one where there is no step.
    batch_sizes (T,), int64, 1 or more each, and falling: step t has the first batch_sizes[t]
    rows. Then the rows of all steps follow each other in xs (R, D) and hs (R, H), as in a
    PackedSequence of PyTorch. Without index, lengths, reset and zoneouts.
    reset (N, T), bool: a sequence begins at step t of row n. Neither state nor gradient crosses
    from step t-1, or the initial state, to step t; in reverse, none crosses from step t to t-1.
    reverse: from the last step of each row to its first. Outputs stand where their inputs stand;
    the initial state enters the last step, and the last state is that after step 0.
    recurrent_mask (N, H): products with Wh read h_prev * recurrent_mask. What reaches the next
    state without them, as (1 - z) h_prev of a GRU does, is not masked.
    zoneouts: for each state None, or d (N, T, H) in 0..1: state_t = d state_{t-1} + (1-d) new_t,
    where new_t is what the cell makes of the states before; the h of an LSTM of its new c, not of
    the one that zoneout leaves. (Krueger et al. 2016)
    need_gradient: False keeps nothing for backward, and returns None as cache.
    cache: one that is no longer needed may be handed back for its memory.
    copy_xs: False where xs stays as it is until backward, so that it need not be copied.
    copy_hs: False where hs may be memory of the cache, which the next call with it overwrites.
    out: hs is written here instead of into a new array; its last axis is contiguous, others may be
    anywhere. last: S arrays (N, H), likewise. Both are returned.
    threads: how many the call may use, or None: as many as all calls.
    precision: "bfloat16" rounds the operands of every product, here and in backward, of arrays in
    float32: x, Wx, Wh, h_prev as it meets Wh (masked, or times the r of a GRU without reset_after),
    and gradients that meet one of them. All else is float32, as are sums of products. Gradients are
    those of the rounded operands, and pass the rounding as they are (straight through).
    """
    if batch_sizes is not None:
        packed = _places(batch_sizes)
        padded = np.zeros((batch_sizes[0], len(batch_sizes), xs.shape[1]), xs.dtype)
        padded[packed] = xs
        hs, last, block = recurrent_forward(
            cell,
            padded,
            weights,
            states,
            lengths=np.bincount(packed[0]),
            reverse=reverse,
            recurrent_mask=recurrent_mask,
            need_gradient=need_gradient,
            last=last,
            precision=precision,
        )
        if block is not None:
            block.packed = packed
        return _written(hs[packed], out), last, block
    Wx, Wh, b, *bh = _weights(cell, weights)
    step, _ = STEPS[cell.name]
    product = product_in(precision)
    N, T = xs.shape[:2] if index is None else index.shape
    order = _order_of_steps(T, lengths, reverse)
    lengths = np.full(N, T) if lengths is None else lengths.copy()
    exists = np.arange(T) < lengths[:, None]
    index = None if index is None else np.where(exists, index, 0)
    fresh = None if reset is None else _fresh(reset, exists, reverse)
    zoneouts = zoneouts or ()

    given, last = last, _states((cell.S, N, len(Wh)), Wh.dtype, states)
    hs = np.zeros((N, T, len(Wh)), Wh.dtype)
    steps = []
    for place in order:
        rows, _ = place
        before = last[:, rows].copy()
        if fresh is not None:
            before[:, fresh[place]] = 0
        read = before[0] if recurrent_mask is None else before[0] * recurrent_mask[rows]
        x = xs[place] if index is None else xs[index[place]]
        new, kept = step(product, product(x, Wx) + b, before, read, Wh, *bh)
        after = np.stack(new)
        for state, state_before, d in zip(after, before, zoneouts, strict=False):
            if d is not None:
                state[...] = d[place] * state_before + (1 - d[place]) * state
        hs[place] = after[0]
        last[:, rows] = after
        if need_gradient:
            steps.append(Step(place, before, read, kept, after))
    hs, last = _written(hs, out), _written(last, given)
    if not need_gradient:
        return hs, last, None
    recurrent_mask = None if recurrent_mask is None else recurrent_mask.copy()
    zoneouts = [None if d is None else d.copy() for d in zoneouts]
    block = Block(
        hs.shape, xs.copy(), index, lengths, fresh, recurrent_mask, zoneouts, steps, product
    )
    return hs, last, block


def recurrent_backward(
    cell: Cell,
    dhs: Array | None,
    dstates: Sequence[Array | None] | Array | None,
    cache: Any,
    weights: Sequence[Array],
    grads: Sequence[Array | None],
    *,
    truncate: int = 0,
    need_dx: bool = True,
    dxs: Array | None = None,
    dfirst: Arrays | None = None,
    adds_dx: bool = False,
    threads: int | None = None,
) -> tuple[Array | None, Any]:
    """Gradients of `recurrent_forward`, back through all time steps.

    dhs: gradient arriving at the outputs, of their shape, not looked at beyond a length, or None
    for zeros; dstates: at the last states besides, S arrays (N, H), or None, for one or all, for
    zeros; weights Wx, Wh; grads: dWx, dWh, db, dbh, overwritten, of which one that is None or left
    out is not computed (of a cell without a bh, dbh is db again); truncate: see `cut_after`
    -> dxs, of the shape of xs, 0 beyond a length; gradients of the initial states (S, N, H)

    Unless `need_dx`, dxs is None. The gradient of an initial state that a reset replaces is 0; that
    of a row without steps is what arrives at its last state.

    dxs, dfirst: they are written here, as `out` and `last` of forward are. adds_dx: the gradient of
    x is added to what is in dxs. threads: as in forward.
    """
    block: Block = cache
    Wx, Wh, *_ = weights
    N, T, H = block.shape
    product, index = block.product, block.index
    if dhs is None:
        dhs = np.zeros(block.shape, Wh.dtype)
    elif block.packed is not None:
        dhs, rows_of_steps = np.zeros(block.shape, Wh.dtype), dhs
        dhs[block.packed] = rows_of_steps
    own_bh = "bh" in cell.weights
    columns = Wh.shape[1:]
    # sums over time, in double
    totals = [np.zeros(shape) for shape in (Wx.shape, Wh.shape, columns, columns)[: 3 + own_bh]]
    _, step_backward = STEPS[cell.name]
    given_dxs, given_dfirst = dxs, dfirst
    dstates = _states((cell.S, N, H), Wh.dtype, dstates)
    dxs = np.zeros((N, T, len(Wx)), Wx.dtype)
    # with an index, what reaches a row of xs is summed over its uses, and then multiplied
    das = np.zeros((len(block.xs), *columns))
    for k, step in reversed(list(enumerate(block.steps))):
        place = rows, _ = step.place
        dafter = dstates[:, rows].copy()
        if truncate:
            dafter[:, cut_after(k, block.lengths[rows], truncate)] = 0
        dafter[0] += dhs[place]
        dnew = dafter.copy()
        for dstate, d in zip(dnew, block.zoneouts, strict=False):
            if d is not None:
                dstate *= 1 - d[place]
        da, recurrent, dread, direct = step_backward(
            product, dnew, step.kept, step.before, step.read, Wh
        )
        dbefore = np.stack(direct)
        dbefore[0] += dread if block.recurrent_mask is None else dread * block.recurrent_mask[rows]
        for dstate, dstate_after, d in zip(dbefore, dafter, block.zoneouts, strict=False):
            if d is not None:
                dstate += d[place] * dstate_after
        if block.fresh is not None:
            dbefore[:, block.fresh[place]] = 0
        dstates[:, rows] = dbefore
        dWh, *dbh = recurrent
        for total, part in zip(totals[1:], (dWh, da.sum(axis=0), *dbh), strict=True):
            total += part
        if index is not None:
            _add_by_rows(das, index[place], da)
            continue
        totals[0] += product(block.xs[place].T, da)
        if need_dx:
            dxs[place] = product(da, Wx.T)
    if index is not None:
        used = np.unique(index[np.arange(T) < block.lengths[:, None]])
        da, dxs = das[used].astype(Wx.dtype), np.zeros(block.xs.shape, Wx.dtype)
        totals[0] += product(block.xs[used].T, da)
        dxs[used] = product(da, Wx.T)
    if not own_bh:
        totals.append(totals[-1])
    for dW, total in zip(grads, totals, strict=False):
        if dW is not None:
            dW[...] = total
    dfirst = _written(dstates, given_dfirst)
    if not need_dx:
        return None, dfirst
    dxs = dxs if block.packed is None else dxs[block.packed]
    return _written(dxs, given_dxs, adds_dx), dfirst


def recurrent_states(cell: Cell, cache: Any) -> Array:
    """All states of the block that a cache belongs to: (S, N, T, H), 0 beyond lengths."""
    block: Block = cache
    states = np.zeros((cell.S, *block.shape), block.xs.dtype)
    for step in block.steps:
        states[:, *step.place] = step.after
    return states


def bidirectional_forward(
    cell: Cell,
    xs: Array,
    weights: Sequence[Sequence[Array]],
    states: Arrays | None,
    *,
    index: Ids | None = None,
    lengths: Ids | None = None,
    reset: Array | None = None,
    recurrent_masks: Sequence[Array | None] = (None, None),
    zoneouts: Sequence[Zoneouts | None] = (None, None),
    need_gradient: bool = True,
    cache: Any = None,
    precision: str | None = None,
) -> tuple[Array, Array, Any]:
    """Two layers over the same input, the first forward and the second in reverse.

    weights, recurrent_masks, zoneouts: a pair of what `recurrent_forward` takes, one for each
    direction; states (2, S, N, H), or None for zeros; all else as there
    -> hs (N, T, 2H), the first direction's before the second's; the last states (2, S, N, H); cache
    """
    directions = [
        recurrent_forward(
            cell,
            xs,
            weights[k],
            None if states is None else states[k],
            index=index,
            lengths=lengths,
            reset=reset,
            reverse=k == 1,
            recurrent_mask=recurrent_masks[k],
            zoneouts=zoneouts[k],
            need_gradient=need_gradient,
            precision=precision,
        )
        for k in range(2)
    ]
    hs, last, caches = zip(*directions, strict=True)
    return np.concatenate(hs, axis=2), np.stack(last), caches if need_gradient else None


def bidirectional_backward(
    cell: Cell,
    dhs: Array,
    dstates: Arrays | None,
    cache: Any,
    weights: Sequence[Sequence[Array]],
    grads: Sequence[Sequence[Array]],
    *,
    truncate: int = 0,
    need_dx: bool = True,
) -> tuple[Array | None, Array]:
    """Gradients of `bidirectional_forward`.

    dhs (N, T, 2H); dstates (2, S, N, H), or None for zeros; weights: a pair of (Wx, Wh); grads: a
    pair of what `recurrent_backward` takes, overwritten; truncate: as there, in both directions
    -> dxs, the sum of both directions, or None unless `need_dx`; gradients of the initial states
    (2, S, N, H)
    """
    directions = [
        recurrent_backward(
            cell,
            dhs_k,
            None if dstates is None else dstates[k],
            cache[k],
            weights[k],
            grads[k],
            truncate=truncate,
            need_dx=need_dx,
        )
        for k, dhs_k in enumerate(np.split(dhs, 2, axis=2))
    ]
    (dxs, dfirst), (dxs_reverse, dfirst_reverse) = directions
    first = np.stack((dfirst, dfirst_reverse))
    return None if dxs is None or dxs_reverse is None else dxs + dxs_reverse, first


def bidirectional_states(cell: Cell, cache: Any) -> Array:
    """All states of the block that a cache belongs to: (2, S, N, T, H), 0 beyond lengths."""
    return np.stack([recurrent_states(cell, block) for block in cache])


# Each cell: a step forward, (what multiplies, x Wx + b, states before it, read = h_prev as products
# with Wh read it, Wh and, where the cell has one, bh) -> states after it, what backward needs of
# it; and a step back, (what multiplies, gradients of the states after it, what forward kept, states
# before, read, Wh) -> gradient of x Wx + b, those of Wh and bh, that of read, and what reaches the
# states before without Wh.
Back: TypeAlias = tuple[Array, tuple[Array, ...], Array, tuple[Array, ...]]


def rnn_step(
    product: Product, ax: Array, states: Array, read: Array, Wh: Array
) -> tuple[tuple[Array, ...], Any]:
    """h = tanh(x Wx + h_prev Wh + b)"""
    h = np.tanh(ax + product(read, Wh))
    return (h,), h


def rnn_step_backward(
    product: Product, dstates: Array, h: Any, before: Array, read: Array, Wh: Array
) -> Back:
    (dh,) = dstates
    return _rnn_back(product, dh * (1 - h**2), read, Wh)


def rnn_relu_step(
    product: Product, ax: Array, states: Array, read: Array, Wh: Array
) -> tuple[tuple[Array, ...], Any]:
    """h = max(0, x Wx + h_prev Wh + b), NaN where that is NaN"""
    h = np.maximum(ax + product(read, Wh), 0)
    return (h,), h


def rnn_relu_step_backward(
    product: Product, dstates: Array, h: Any, before: Array, read: Array, Wh: Array
) -> Back:
    (dh,) = dstates
    return _rnn_back(product, np.where(h == 0, 0, dh), read, Wh)


def _rnn_back(product: Product, da: Array, read: Array, Wh: Array) -> Back:
    """What follows from the gradient of a = x Wx + h_prev Wh + b alone."""
    dread = product(da, Wh.T)
    return da, (product(read.T, da),), dread, (np.zeros_like(dread),)


def lstm_step(
    product: Product, ax: Array, states: Array, read: Array, Wh: Array
) -> tuple[tuple[Array, ...], Any]:
    """f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the columns of x Wx + h_prev Wh + b;
    c = f c_prev + g i;  h = o tanh(c)   (Hochreiter and Schmidhuber 1997, with the forget gate of
    Gers et al. 2000)
    """
    _, c_prev = states
    a_f, a_g, a_i, a_o = np.split(ax + product(read, Wh), 4, axis=1)
    f, g, i, o = sigmoid(a_f), np.tanh(a_g), sigmoid(a_i), sigmoid(a_o)
    c = f * c_prev + g * i
    tanh_c = np.tanh(c)
    return (o * tanh_c, c), (f, g, i, o, tanh_c)


def lstm_step_backward(
    product: Product, dstates: Array, kept: Any, before: Array, read: Array, Wh: Array
) -> Back:
    (f, g, i, o, tanh_c), (_, c_prev), (dh, dc) = kept, before, dstates
    dc = dc + dh * o * (1 - tanh_c**2)
    da_f = dc * c_prev * f * (1 - f)
    da_g = dc * i * (1 - g**2)
    da_i = dc * g * i * (1 - i)
    da_o = dh * tanh_c * o * (1 - o)
    da = np.hstack((da_f, da_g, da_i, da_o))
    return da, (product(read.T, da),), product(da, Wh.T), (np.zeros_like(dh), dc * f)


def lstm_ifgo_step(
    product: Product, ax: Array, states: Array, read: Array, Wh: Array
) -> tuple[tuple[Array, ...], Any]:
    """The same, with the columns in the order i, f, g, o."""
    _, c_prev = states
    a_i, a_f, a_g, a_o = np.split(ax + product(read, Wh), 4, axis=1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    c = f * c_prev + i * g
    tanh_c = np.tanh(c)
    return (o * tanh_c, c), (i, f, g, o, tanh_c)


def lstm_ifgo_step_backward(
    product: Product, dstates: Array, kept: Any, before: Array, read: Array, Wh: Array
) -> Back:
    (i, f, g, o, tanh_c), (_, c_prev), (dh, dc) = kept, before, dstates
    dc = dc + dh * o * (1 - tanh_c**2)
    da_i = dc * g * i * (1 - i)
    da_f = dc * c_prev * f * (1 - f)
    da_g = dc * i * (1 - g**2)
    da_o = dh * tanh_c * o * (1 - o)
    da = np.hstack((da_i, da_f, da_g, da_o))
    return da, (product(read.T, da),), product(da, Wh.T), (np.zeros_like(dh), dc * f)


def gru_step(
    product: Product, ax: Array, states: Array, read: Array, Wh: Array
) -> tuple[tuple[Array, ...], Any]:
    """In the columns of each gate: z, r = sigmoid(x Wx + h_prev Wh + b);
    g = tanh(x Wx + (r h_prev) Wh + b);  h = (1 - z) h_prev + z g
    (Cho et al. 2014, with the z of Chung et al. 2014)
    """
    (h_prev,) = states
    ax_z, ax_r, ax_h = np.split(ax, 3, axis=1)
    Wh_z, Wh_r, Wh_h = np.split(Wh, 3, axis=1)
    z, r = sigmoid(ax_z + product(read, Wh_z)), sigmoid(ax_r + product(read, Wh_r))
    g = np.tanh(ax_h + product(r * read, Wh_h))
    return ((1 - z) * h_prev + z * g,), (z, r, g)


def gru_step_backward(
    product: Product, dstates: Array, kept: Any, before: Array, read: Array, Wh: Array
) -> Back:
    (z, r, g), (h_prev,), (dh,) = kept, before, dstates
    Wh_z, Wh_r, Wh_h = np.split(Wh, 3, axis=1)
    da_z = dh * (g - h_prev) * z * (1 - z)
    da_h = dh * z * (1 - g**2)
    dproduct = product(da_h, Wh_h.T)  # of r h_prev
    da_r = dproduct * read * r * (1 - r)
    dWh = np.hstack((product(read.T, da_z), product(read.T, da_r), product((r * read).T, da_h)))
    dread = product(da_z, Wh_z.T) + product(da_r, Wh_r.T) + dproduct * r
    return np.hstack((da_z, da_r, da_h)), (dWh,), dread, (dh * (1 - z),)


def gru_reset_after_step(
    product: Product, ax: Array, states: Array, read: Array, Wh: Array, bh: Array
) -> tuple[tuple[Array, ...], Any]:
    """With u = h_prev Wh + bh, in the columns of each gate:
    z, r = sigmoid(x Wx + b + u);  g = tanh(x Wx + b + r u);  h = (1 - z) h_prev + z g
    (the form of cuDNN and PyTorch, whose z is 1 - z here)
    """
    (h_prev,) = states
    ax_z, ax_r, ax_h = np.split(ax, 3, axis=1)
    u_z, u_r, u_h = np.split(product(read, Wh) + bh, 3, axis=1)
    z, r = sigmoid(ax_z + u_z), sigmoid(ax_r + u_r)
    g = np.tanh(ax_h + r * u_h)
    return ((1 - z) * h_prev + z * g,), (z, r, g, u_h)


def gru_reset_after_step_backward(
    product: Product, dstates: Array, kept: Any, before: Array, read: Array, Wh: Array
) -> Back:
    (z, r, g, u_h), (h_prev,), (dh,) = kept, before, dstates
    da_z = dh * (g - h_prev) * z * (1 - z)
    da_h = dh * z * (1 - g**2)
    da_r = da_h * u_h * r * (1 - r)
    du = np.hstack((da_z, da_r, da_h * r))
    da, dread = np.hstack((da_z, da_r, da_h)), product(du, Wh.T)
    return da, (product(read.T, du), du.sum(axis=0)), dread, (dh * (1 - z),)


def gru_rzn_step(
    product: Product, ax: Array, states: Array, read: Array, Wh: Array, bh: Array
) -> tuple[tuple[Array, ...], Any]:
    """With u = h_prev Wh + bh, in the columns of each gate:
    r, z = sigmoid(x Wx + b + u);  n = tanh(x Wx + b + r u);  h = (1 - z) n + z h_prev
    (the form of PyTorch, Keras and ONNX)
    """
    (h_prev,) = states
    ax_r, ax_z, ax_n = np.split(ax, 3, axis=1)
    u_r, u_z, u_n = np.split(product(read, Wh) + bh, 3, axis=1)
    r, z = sigmoid(ax_r + u_r), sigmoid(ax_z + u_z)
    n = np.tanh(ax_n + r * u_n)
    return ((1 - z) * n + z * h_prev,), (r, z, n, u_n)


def gru_rzn_step_backward(
    product: Product, dstates: Array, kept: Any, before: Array, read: Array, Wh: Array
) -> Back:
    (r, z, n, u_n), (h_prev,), (dh,) = kept, before, dstates
    da_z = dh * (h_prev - n) * z * (1 - z)
    da_n = dh * (1 - z) * (1 - n**2)
    da_r = da_n * u_n * r * (1 - r)
    du = np.hstack((da_r, da_z, da_n * r))
    da, dread = np.hstack((da_r, da_z, da_n)), product(du, Wh.T)
    return da, (product(read.T, du), du.sum(axis=0)), dread, (dh * z,)


STEPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "rnn": (rnn_step, rnn_step_backward),
    "rnn_relu": (rnn_relu_step, rnn_relu_step_backward),
    "lstm": (lstm_step, lstm_step_backward),
    "gru": (gru_step, gru_step_backward),
    "gru_reset_after": (gru_reset_after_step, gru_reset_after_step_backward),
    "lstm_ifgo": (lstm_ifgo_step, lstm_ifgo_step_backward),
    "gru_rzn": (gru_rzn_step, gru_rzn_step_backward),
}


def _weights(cell: Cell, weights: Sequence[Any]) -> list[Array]:
    """Those that the cell has, biases that are missing being zeros."""
    Wx, Wh, *biases = weights
    b, bh = (
        np.zeros(Wh.shape[1], Wh.dtype) if bias is None else bias
        for bias in (*biases, None, None)[:2]
    )
    return [Wx, Wh, b, bh] if "bh" in cell.weights else [Wx, Wh, b + bh]


def _states(
    shape: tuple[int, ...], dtype: Any, given: Sequence[Array | None] | Array | None
) -> Array:
    """A copy of S states, zeros where none are given."""
    states = np.zeros(shape, dtype)
    for state, own in zip(states, () if given is None else given, strict=False):
        if own is not None:
            state[...] = own
    return states


def _written(result: Any, given: Any, adds: bool = False) -> Any:
    """A result, or one for each state, in the arrays that the caller gave for it, if any."""
    if given is None:
        return result
    if isinstance(given, np.ndarray):
        given[...] = given + result if adds else result
    else:
        for array, own in zip(given, result, strict=True):
            array[...] = own
    return given


def _places(batch_sizes: Ids) -> tuple[Ids, Ids]:
    """Row and time of every step, in the order of packed arrays."""
    rows = np.concatenate([np.arange(count) for count in batch_sizes])
    return rows, np.repeat(np.arange(len(batch_sizes)), batch_sizes)


def _order_of_steps(T: int, lengths: Ids | None, reverse: bool) -> list[Place]:
    """For k = 0, 1, ...: the rows that have a k-th step, in the order of computing, and when."""
    if lengths is None:  # all rows at one time: views instead of copies
        return [(slice(None), T - 1 - k if reverse else k) for k in range(T)]
    rows = [np.flatnonzero(lengths > k) for k in range(lengths.max(initial=0))]
    return [(n, lengths[n] - 1 - k if reverse else k) for k, n in enumerate(rows)]


def _fresh(reset: Array, exists: Array, reverse: bool) -> Array:
    """Where zeros enter a step (N, T), instead of the states that the step before it left."""
    if not reverse:
        return reset.copy()
    fresh = np.zeros_like(reset)
    fresh[:, :-1] = reset[:, 1:] & exists[:, 1:]  # the last step is entered by initial states
    return fresh


def _add_by_rows(sums: Array, index: Ids, parts: Array) -> None:
    """Add each of the parts to the row that the index says, to which several may go."""
    np.add.at(sums, index, parts)


def cut_after(k: int, length: Any, truncate: int) -> Any:
    """Whether truncated back-propagation lets nothing flow from step k+1 into step k.

    Steps are counted in the order of computing; length: how many a row has, or an array of that.
    With `truncate` > 0 it is so where (k+1) % truncate == 0, as if blocks of so many steps had been
    run one by one; 0 is never. What arrives at the last state from outside, and the gradient of the
    initial one, are not cut.
    """
    return (truncate > 0 and (k + 1) % truncate == 0) & (k + 1 < length)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x) by the side of 0 on which the exponential cannot overflow."""
    e = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, e) / (1 + e)
    return y
