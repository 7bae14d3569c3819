"""Recurrent layers: one loop over time for every cell, and each cell as two functions.

Letters: N batch rows, T time steps, D input size, H hidden size, G gates, S states.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._types import Array, Ids
from ..cells import Cell


def recurrent_forward(
    cell: Cell,
    xs: Array,
    weights: Sequence[Array],
    states: Array | None,
    *,
    index: Ids | None = None,
    cache: Any = None,
) -> tuple[Array, Array, Any]:
    """Run a cell over a block of time steps.

    cell: one of `rnnfast.cells`; xs (N, T, D); weights Wx (D, G*H), Wh (H, G*H), b (G*H,);
    states (S, N, H): the initial ones, or None for zeros
    -> hs (N, T, H), the last states (S, N, H), cache

    With an index (N, T), int64, the input is xs[index], xs being (U, D): rows that are used often
    are projected once. A `cache` that is no longer needed may be handed back for its memory.
    """
    x_rows = xs
    xs = xs if index is None else xs[index]
    Wx, Wh, b = weights
    step, _ = STEPS[cell.name]
    N, T, _ = xs.shape
    steps = [np.zeros((cell.S, N, len(Wh)), Wh.dtype) if states is None else np.array(states)]
    gates = []
    for t in range(T):
        after, kept = step(xs[:, t] @ Wx + b, steps[t], Wh)
        steps.append(np.stack(after))
        gates.append(kept)
    hs = np.stack([states[0] for states in steps[1:]], axis=1)
    return hs, steps[T].copy(), (x_rows.copy(), index, steps, gates)


def recurrent_backward(
    cell: Cell,
    dhs: Array,
    dstates: Array | None,
    cache: Any,
    weights: Sequence[Array],
    grads: Sequence[Array],
    *,
    truncate: int = 0,
    need_dx: bool = True,
) -> tuple[Array | None, Array]:
    """Gradients of `recurrent_forward`, back through all time steps.

    dhs (N, T, H): gradient arriving at the outputs; dstates (S, N, H), or None for zeros: at the
    last states besides; weights Wx, Wh; grads: dWx, dWh, db, which are overwritten;
    truncate: see `cut_after`
    -> dxs, of the shape of xs, gradients of the initial states (S, N, H)

    Unless `need_dx`, dxs is None.
    """
    x_rows, index, steps, gates = cache
    xs = x_rows if index is None else x_rows[index]
    Wx, Wh = weights
    dWx, dWh, db = (np.zeros(dW.shape) for dW in grads)  # sums over time, in double
    _, step_backward = STEPS[cell.name]
    T = xs.shape[1]
    dstates = np.zeros_like(steps[0]) if dstates is None else np.array(dstates)
    dxs = np.empty_like(xs)
    for t in reversed(range(T)):
        if cut_after(t, T, truncate):
            dstates[...] = 0
        dstates[0] += dhs[:, t]
        da, dWh_t, dbefore = step_backward(dstates, gates[t], steps[t], steps[t + 1], Wh)
        dWx += xs[:, t].T @ da
        dWh += dWh_t
        db += da.sum(axis=0)
        dxs[:, t] = da @ Wx.T
        dstates = np.stack(dbefore)
    for dW, total in zip(grads, (dWx, dWh, db), strict=True):
        dW[...] = total
    return _gradient_of_rows(dxs, x_rows, index) if need_dx else None, dstates


# Each cell: a step forward, (x Wx + b, states, Wh) -> states after it, what backward needs of it;
# and a step back, (gradients of the states after it, what forward kept, states before, states
# after, Wh) -> gradient of x Wx + b, what is added to that of Wh, gradients of the states before.


def rnn_step(ax: Array, states: Array, Wh: Array) -> tuple[tuple[Array, ...], Any]:
    """h = tanh(x Wx + h_prev Wh + b)"""
    (h,) = states
    return (np.tanh(ax + h @ Wh),), None


def rnn_step_backward(
    dstates: Array, _: Any, before: Array, after: Array, Wh: Array
) -> tuple[Array, Array, tuple[Array, ...]]:
    (h_prev,), (h,), (dh,) = before, after, dstates
    da = dh * (1 - h**2)
    return da, h_prev.T @ da, (da @ Wh.T,)


def lstm_step(ax: Array, states: Array, Wh: Array) -> tuple[tuple[Array, ...], Any]:
    """f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the columns of x Wx + h_prev Wh + b;
    c = f c_prev + g i;  h = o tanh(c)   (Hochreiter and Schmidhuber 1997, with the forget gate of
    Gers et al. 2000)
    """
    h_prev, c_prev = states
    a_f, a_g, a_i, a_o = np.split(ax + h_prev @ Wh, 4, axis=1)
    f, g, i, o = sigmoid(a_f), np.tanh(a_g), sigmoid(a_i), sigmoid(a_o)
    c = f * c_prev + g * i
    return (o * np.tanh(c), c), (f, g, i, o)


def lstm_step_backward(
    dstates: Array, gates: Any, before: Array, after: Array, Wh: Array
) -> tuple[Array, Array, tuple[Array, ...]]:
    (f, g, i, o), (h_prev, c_prev), (_, c), (dh, dc) = gates, before, after, dstates
    tanh_c = np.tanh(c)
    dc = dc + dh * o * (1 - tanh_c**2)
    da_f = dc * c_prev * f * (1 - f)
    da_g = dc * i * (1 - g**2)
    da_i = dc * g * i * (1 - i)
    da_o = dh * tanh_c * o * (1 - o)
    da = np.hstack((da_f, da_g, da_i, da_o))
    return da, h_prev.T @ da, (da @ Wh.T, dc * f)


STEPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "rnn": (rnn_step, rnn_step_backward),
    "lstm": (lstm_step, lstm_step_backward),
}


def _gradient_of_rows(dxs: Array, x_rows: Array, index: Ids | None) -> Array:
    """The gradient of rows of which `index` took xs: the sum over their uses."""
    if index is None:
        return dxs
    dx_rows = np.zeros(x_rows.shape)
    np.add.at(dx_rows, index, dxs)
    return dx_rows.astype(dxs.dtype)


def cut_after(t: int, T: int, truncate: int) -> bool:
    """Whether truncated back-propagation lets nothing flow from step t+1 into step t.

    With `truncate` = k > 0 that is so where (t+1) % k == 0, as if blocks of k steps had been run
    one by one; 0 is never. What arrives at the last state from outside, and the gradient of the
    initial one, are not cut.
    """
    return truncate > 0 and t + 1 < T and (t + 1) % truncate == 0


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x) by the side of 0 on which the exponential cannot overflow."""
    e = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, e) / (1 + e)
    return y
