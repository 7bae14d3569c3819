"""The agreed signature of the kernels, on top of those that there are, by copying."""

from typing import Any

import numpy as np

from .. import cells, kernels

ORDER = {"rnn": [0], "rnn_relu": [0], "lstm": [1, 2, 0, 3], "gru_reset_after": [1, 0, 2]}
CELL = {
    "RNN_TANH": cells.RNN,
    "RNN_RELU": cells.RNN_RELU,
    "LSTM": cells.LSTM,
    "GRU": cells.GRU_RESET_AFTER,
}


def blocks(W: Any, order: Any) -> Any:
    parts = np.split(W, len(order), -1)
    return np.concatenate([parts[k] for k in order], -1)


def ours(W: Any, cell: Any) -> Any:
    W = blocks(W, ORDER[cell.name])
    if cell.name == "gru_reset_after":
        W[..., : W.shape[-1] // 3] *= -1
    return W


def theirs(W: Any, cell: Any) -> Any:
    W = W.copy()
    if cell.name == "gru_reset_after":
        W[..., : W.shape[-1] // 3] *= -1
    return blocks(W, np.argsort(ORDER[cell.name]))


def lengths_of(batch_sizes: Any) -> Any:
    return (np.arange(batch_sizes[0])[:, None] < batch_sizes).sum(1).astype(np.int64)


def padded(a: Any, batch_sizes: Any) -> Any:
    if batch_sizes is None or a is None:
        return a
    out = np.zeros((batch_sizes[0], len(batch_sizes), a.shape[1]), a.dtype)
    at = 0
    for t, n in enumerate(batch_sizes):
        out[:n, t] = a[at : at + n]
        at += n
    return out


def unpadded(a: Any, batch_sizes: Any, out: Any, add: bool = False) -> None:
    if batch_sizes is None:
        out[...] = a + out if add else a
        return
    at = 0
    for t, n in enumerate(batch_sizes):
        out[at : at + n] = a[:n, t] + out[at : at + n] if add else a[:n, t]
        at += n


def packed(cell: Any, weights: Any) -> Any:
    Wx, Wh, b, bh = weights
    zero = np.zeros(Wh.shape[1], Wh.dtype)
    b, bh = (zero if v is None else v for v in (b, bh))
    bs = [b, bh] if cell.name == "gru_reset_after" else [b + bh]
    return [np.ascontiguousarray(ours(W, cell)) for W in (Wx, Wh, *bs)]


def recurrent_forward(
    cell: Any, xs: Any, weights: Any, states: Any, *, batch_sizes: Any = None, reverse: bool = False,
    need_gradient: bool = True, cache: Any = None, copy_xs: bool = True, out: Any, last: Any,
    threads: int,
) -> Any:
    lengths = None if batch_sizes is None else lengths_of(batch_sizes)
    hs, ends, cache = kernels.recurrent_forward(
        cell, padded(xs, batch_sizes), packed(cell, weights), states, lengths=lengths,
        reverse=reverse, need_gradient=need_gradient, cache=cache,
    )
    unpadded(hs, batch_sizes, out)
    for a, b in zip(last, ends, strict=True):
        a[...] = b
    return out, last, cache


def recurrent_backward(
    cell: Any, dhs: Any, dstates: Any, cache: Any, weights: Any, grads: Any, *,
    batch_sizes: Any = None, need_dx: bool = True, dxs: Any = None, dfirst: Any = None,
    adds_dx: bool = False, threads: int, shape: Any,
) -> Any:
    N, T, H = shape
    Wx, Wh = weights[:2]
    dhs = np.zeros(shape, Wh.dtype) if dhs is None else padded(dhs, batch_sizes)
    if dstates is not None:
        dstates = [np.zeros((N, H), Wh.dtype) if d is None else d for d in dstates]
    w = packed(cell, (Wx, Wh, None, None))
    g = [np.empty_like(W) for W in w]
    dx, first = kernels.recurrent_backward(
        cell, dhs, dstates, cache, w[:2], g, need_dx=need_dx
    )
    g = [theirs(W, cell) for W in g]
    if len(g) == 3:
        g.append(g[2])
    for a, b in zip(grads, g, strict=True):
        if a is not None:
            a[...] = b
    if dfirst is not None:
        for a, b in zip(dfirst, first, strict=True):
            if a is not None:
                a[...] = b
    if need_dx:
        unpadded(dx, batch_sizes, dxs, adds_dx)
    return dxs, dfirst
