"""The kernels again in NumPy alone: plain formulas, one time step after the other.

These functions are the contract of the compiled ones in `rnnfast.kernels`: same names, same
arguments, same results. Arguments have been checked by the layer. All floating point arrays have
one dtype, float32 or float64, and any strides; ids are C-contiguous int64. Inputs are never
modified. What `*_forward` returns as `cache` belongs to the matching `*_backward` of the same
module, which may be called any number of times with it.

Letters: N batch rows, T time steps, D input size, H hidden size, V vocabulary size, M rows.
"""

import numpy as np


def rnn_forward(xs, Wx, Wh, b, h0):
    """h_t = tanh(x_t Wx + h_{t-1} Wh + b)

    xs (N, T, D), Wx (D, H), Wh (H, H), b (H,), h0 (N, H)
    -> hs (N, T, H), the last state (N, H), cache
    """
    N, T, _ = xs.shape
    hs = np.empty((N, T + 1, h0.shape[1]), h0.dtype)
    hs[:, 0] = h0
    for t in range(T):
        hs[:, t + 1] = np.tanh(xs[:, t] @ Wx + hs[:, t] @ Wh + b)
    return hs[:, 1:].copy(), hs[:, T].copy(), (xs.copy(), hs)


def rnn_backward(dhs, dh, cache, Wx, Wh, dWx, dWh, db, *, truncate=0):
    """Gradients of `rnn_forward`, back through all time steps.

    dhs (N, T, H): gradient arriving at the outputs; dh (N, H): at the last state besides;
    dWx, dWh, db are overwritten; truncate: see `cut_after`
    -> dxs (N, T, D), gradient of h0 (N, H)
    """
    xs, hs = cache
    T = xs.shape[1]
    dxs = np.empty_like(xs)
    for dW in (dWx, dWh, db):
        dW[...] = 0
    for t in reversed(range(T)):
        if cut_after(t, T, truncate):
            dh = np.zeros_like(dh)
        da = (dhs[:, t] + dh) * (1 - hs[:, t + 1] ** 2)
        dWx += xs[:, t].T @ da
        dWh += hs[:, t].T @ da
        db += da.sum(axis=0)
        dxs[:, t] = da @ Wx.T
        dh = da @ Wh.T
    return dxs, dh


def lstm_forward(xs, Wx, Wh, b, h0, c0):
    """f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the columns of x_t Wx + h_{t-1} Wh + b;
    c_t = f c_{t-1} + g i;  h_t = o tanh(c_t)   (Hochreiter and Schmidhuber 1997, with the forget
    gate of Gers et al. 2000)

    xs (N, T, D), Wx (D, 4H), Wh (H, 4H), b (4H,), h0 and c0 (N, H)
    -> hs (N, T, H), the last state and the last cell (N, H), cache
    """
    N, T, _ = xs.shape
    H = h0.shape[1]
    hs = np.empty((N, T + 1, H), h0.dtype)
    cs = np.empty_like(hs)
    gates = np.empty((N, T, 4 * H), h0.dtype)
    hs[:, 0] = h0
    cs[:, 0] = c0
    for t in range(T):
        a = xs[:, t] @ Wx + hs[:, t] @ Wh + b
        a_f, a_g, a_i, a_o = np.split(a, 4, axis=1)
        f, g, i, o = sigmoid(a_f), np.tanh(a_g), sigmoid(a_i), sigmoid(a_o)
        cs[:, t + 1] = f * cs[:, t] + g * i
        hs[:, t + 1] = o * np.tanh(cs[:, t + 1])
        gates[:, t] = np.hstack((f, g, i, o))
    return hs[:, 1:].copy(), hs[:, T].copy(), cs[:, T].copy(), (xs.copy(), hs, cs, gates)


def lstm_backward(dhs, dh, dc, cache, Wx, Wh, dWx, dWh, db, *, truncate=0):
    """Gradients of `lstm_forward`, back through all time steps.

    dhs (N, T, H): gradient arriving at the outputs; dh, dc (N, H): at the last state and cell
    besides; dWx, dWh, db are overwritten; truncate: see `cut_after`
    -> dxs (N, T, D), gradients of h0 and c0 (N, H)
    """
    xs, hs, cs, gates = cache
    T = xs.shape[1]
    dxs = np.empty_like(xs)
    for dW in (dWx, dWh, db):
        dW[...] = 0
    for t in reversed(range(T)):
        if cut_after(t, T, truncate):
            dh, dc = np.zeros_like(dh), np.zeros_like(dc)
        f, g, i, o = np.split(gates[:, t], 4, axis=1)
        tanh_c = np.tanh(cs[:, t + 1])
        dh = dhs[:, t] + dh
        dc = dc + dh * o * (1 - tanh_c**2)
        da_f = dc * cs[:, t] * f * (1 - f)
        da_g = dc * i * (1 - g**2)
        da_i = dc * g * i * (1 - i)
        da_o = dh * tanh_c * o * (1 - o)
        da = np.hstack((da_f, da_g, da_i, da_o))
        dWx += xs[:, t].T @ da
        dWh += hs[:, t].T @ da
        db += da.sum(axis=0)
        dxs[:, t] = da @ Wx.T
        dh = da @ Wh.T
        dc = dc * f
    return dxs, dh, dc


def cut_after(t, T, truncate):
    """Whether truncated back-propagation lets nothing flow from step t+1 into step t.

    With `truncate` = k > 0 that is so where (t+1) % k == 0, as if blocks of k steps had been run
    one by one; 0 is never. What arrives at the last state from outside, and the gradient of the
    initial one, are not cut.
    """
    return truncate > 0 and t + 1 < T and (t + 1) % truncate == 0


def embedding_forward(W, ids):
    """Rows of a table: W (V, D), ids of any shape (...) -> (..., D)"""
    return W[ids]


def embedding_backward(dout, ids, dW):
    """dout (..., D), ids (...); dW (V, D) is overwritten: row v collects every dout of id v."""
    dW[...] = 0
    np.add.at(dW, ids, dout)


def softmax_loss_forward(logits, targets, ignore_label):
    """Cross entropy of the softmax, in nats: log(sum_v e^x_v) - x_target, summed over the rows
    whose target is not `ignore_label`.

    logits (M, V) C-contiguous, targets (M,)
    -> the sum as a float64, how many rows it has, probabilities (M, V)
    """
    top = logits.max(axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):  # to -inf, and to NaN where top is inf
        probs = np.exp(logits - top)
    total = probs.sum(axis=1, keepdims=True)
    (rows,) = np.nonzero(targets != ignore_label)
    with np.errstate(invalid="ignore"):
        distances = top[rows, 0].astype(np.float64) - logits[rows, targets[rows]]
    losses = np.log(total[rows, 0]) + distances
    return float(losses.sum()), len(rows), probs / total


def softmax_loss_backward(probs, targets, ignore_label, scale):
    """Gradient of `scale` times the sum of `softmax_loss_forward`, with respect to the logits:
    scale (p - onehot), and 0 in ignored rows.

    probs (M, V), targets (M,), scale a float -> (M, V)
    """
    (rows,) = np.nonzero(targets != ignore_label)
    dlogits = np.zeros_like(probs)
    dlogits[rows] = probs[rows]
    dlogits[rows, targets[rows]] -= 1
    return dlogits * probs.dtype.type(scale)


def sigmoid(x):
    """1 / (1 + e^-x) by the side of 0 on which the exponential cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)
