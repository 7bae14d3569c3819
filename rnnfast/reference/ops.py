"""The kernels again in NumPy alone: plain formulas, one time step after the other.

These functions are the contract of the compiled ones in `rnnfast.kernels`: same names, same
arguments, same results. Arguments have been checked by the layer. All floating point arrays have
one dtype, float32 or float64, and any strides; ids are C-contiguous int64. Inputs are never
modified. What `*_forward` returns as `cache` belongs to the matching `*_backward` of the same
module, which may be called any number of times with it.

Letters: N batch rows, T time steps, D input size, H hidden size, V vocabulary size, M rows.
"""

import numpy as np


def rnn_forward(xs, Wx, Wh, b, h0, *, index=None, cache=None):
    """h_t = tanh(x_t Wx + h_{t-1} Wh + b)

    xs (N, T, D), Wx (D, H), Wh (H, H), b (H,), h0 (N, H)
    -> hs (N, T, H), the last state (N, H), cache

    With an index (N, T), int64, the input is xs[index], xs being (U, D): rows that are used often
    are projected once. A `cache` that is no longer needed may be handed back for its memory.
    """
    x_rows = xs
    xs = xs if index is None else xs[index]
    N, T, _ = xs.shape
    hs = np.empty((N, T + 1, h0.shape[1]), h0.dtype)
    hs[:, 0] = h0
    for t in range(T):
        hs[:, t + 1] = np.tanh(xs[:, t] @ Wx + hs[:, t] @ Wh + b)
    return hs[:, 1:].copy(), hs[:, T].copy(), (x_rows.copy(), index, hs)


def rnn_backward(dhs, dh, cache, Wx, Wh, dWx, dWh, db, *, truncate=0, need_dx=True):
    """Gradients of `rnn_forward`, back through all time steps.

    dhs (N, T, H): gradient arriving at the outputs; dh (N, H): at the last state besides;
    dWx, dWh, db are overwritten; truncate: see `cut_after`
    -> dxs, of the shape of xs, gradient of h0 (N, H)

    Unless `need_dx`, dxs is None.
    """
    x_rows, index, hs = cache
    xs = x_rows if index is None else x_rows[index]
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
    return _gradient_of_rows(dxs, x_rows, index) if need_dx else None, dh


def lstm_forward(xs, Wx, Wh, b, h0, c0, *, index=None, cache=None):
    """f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the columns of x_t Wx + h_{t-1} Wh + b;
    c_t = f c_{t-1} + g i;  h_t = o tanh(c_t)   (Hochreiter and Schmidhuber 1997, with the forget
    gate of Gers et al. 2000)

    xs (N, T, D), Wx (D, 4H), Wh (H, 4H), b (4H,), h0 and c0 (N, H)
    -> hs (N, T, H), the last state and the last cell (N, H), cache

    `index` and `cache` as in `rnn_forward`.
    """
    x_rows = xs
    xs = xs if index is None else xs[index]
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
    kept = x_rows.copy(), index, hs, cs, gates
    return hs[:, 1:].copy(), hs[:, T].copy(), cs[:, T].copy(), kept


def lstm_backward(dhs, dh, dc, cache, Wx, Wh, dWx, dWh, db, *, truncate=0, need_dx=True):
    """Gradients of `lstm_forward`, back through all time steps.

    dhs (N, T, H): gradient arriving at the outputs; dh, dc (N, H): at the last state and cell
    besides; dWx, dWh, db are overwritten; truncate: see `cut_after`
    -> dxs, of the shape of xs, gradients of h0 and c0 (N, H)

    Unless `need_dx`, dxs is None.
    """
    x_rows, index, hs, cs, gates = cache
    xs = x_rows if index is None else x_rows[index]
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
    return _gradient_of_rows(dxs, x_rows, index) if need_dx else None, dh, dc


def _gradient_of_rows(dxs, x_rows, index):
    """The gradient of rows of which `index` took xs: the sum over their uses."""
    if index is None:
        return dxs
    dx_rows = np.zeros_like(x_rows)
    np.add.at(dx_rows, index, dxs)
    return dx_rows


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


def embedding_backward(dout, ids, dW, *, touched=None):
    """dout (..., D), ids (...); dW (V, D) is overwritten: row v collects every dout of id v.

    With `touched` (M,), all rows but these are known to be 0 already.
    """
    dW[slice(None) if touched is None else touched] = 0
    np.add.at(dW, ids, dout)


def distinct(ids, V):
    """ids (...) -> tokens (U,), those that occur, in the order of their first places, and index
    (...), with tokens[index] == ids"""
    tokens, first, index = np.unique(ids, return_index=True, return_inverse=True)
    order = first.argsort()
    return tokens[order], order.argsort()[index].reshape(ids.shape)


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


def affine_forward(x, W, b):
    """x W + b: x (M, D), W (D, V), b (V,) -> (M, V)"""
    return x @ W + b


def affine_backward(dout, x, W, dW, db):
    """Gradients of `affine_forward`: dout (M, V); dW, db are overwritten -> gradient of x (M, D)"""
    dW[...] = x.T @ dout
    db[...] = dout.sum(axis=0)
    return dout @ W.T


def affine_loss_forward(x, W, b, targets, ignore_label, *, need_gradient=True, cache=None):
    """`softmax_loss_forward` of `affine_forward`, in one pass.

    x (M, D), W (D, V), b (V,), targets (M,)
    -> the sum of the losses as a float64, how many rows it has, cache

    Gradients are taken at the W of this call, and only where `need_gradient`. A `cache` that is no
    longer needed may be handed back for its memory.
    """
    logits = affine_forward(x, W, b)
    total, count, probs = softmax_loss_forward(logits, targets, ignore_label)
    dlogits = softmax_loss_backward(probs, targets, ignore_label, 1 / max(count, 1))
    return total, count, (x.copy(), W.copy(), dlogits) if need_gradient else None


def affine_loss_backward(cache, scale, dW, db):
    """Gradients of `scale` times the mean of the losses: dW, db are overwritten -> gradient of x"""
    x, W, dlogits = cache
    return affine_backward(dlogits * dlogits.dtype.type(scale), x, W, dW, db)


def generate(
    embed_W, layers, affine_W, affine_b, states, first, length, temperature, skip_ids, uniforms
):
    """Tokens, each drawn from what a language model makes of those before.

    embed_W (V, D); layers: a tuple (cell, Wx, Wh, b) for each, cell being "rnn" or "lstm";
    affine_W (H, V), affine_b (V,); states: a tuple for each layer, (h,) or (h, c), of (1, H);
    first: the id that comes first; length: how many to draw; temperature: the logits are divided
    by it, 0 takes the likeliest; skip_ids: a list of ids that are never drawn; uniforms (length,)
    float64, random numbers in 0 <= u < 1, one for each draw -> ids (length,), int64
    """
    ids = np.empty(length, np.int64)
    states = list(states)
    token = first
    for k in range(length):
        x = embed_W[None, None, token]
        for j, (cell, *weights) in enumerate(layers):
            forward = {"rnn": rnn_forward, "lstm": lstm_forward}[cell]
            x, *states[j], _ = forward(x, *weights, *states[j])
        logits = affine_forward(x[0], affine_W, affine_b)[0].astype(np.float64)
        logits[skip_ids] = -np.inf
        ids[k] = token = draw(logits, temperature, uniforms[k] if temperature else None)
    return ids


def draw(logits, temperature, u):
    """One index, with probability proportional to e^(logit / temperature)."""
    if temperature == 0:
        return logits.argmax()
    # subtracted before the division, so that a tiny temperature cannot overflow to inf - inf
    with np.errstate(over="ignore"):  # -inf is as good as any very negative number here
        p = np.exp((logits - logits.max()) / temperature)
    cumulated = p.cumsum()
    # side="right": a draw of exactly 0 must not select a first token of probability 0
    return min(np.searchsorted(cumulated, u * cumulated[-1], "right"), len(p) - 1)


def sgd_step(W, dW, lr):
    """W -= lr dW"""
    W -= lr * dW


def momentum_step(W, dW, v, lr, momentum):
    """v = momentum v - lr dW;  W += v"""
    v *= momentum
    v -= lr * dW
    W += v


def adagrad_step(W, dW, h, lr):
    """h += dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""
    h += dW * dW
    W -= lr * dW / (np.sqrt(h) + 1e-7)


def rmsprop_step(W, dW, h, lr, decay):
    """h = decay h + (1 - decay) dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""
    h *= decay
    h += (1 - decay) * dW * dW
    W -= lr * dW / (np.sqrt(h) + 1e-7)


def adam_step(W, dW, m, v, lr, beta1, beta2):
    """m += (1 - beta1) (dW - m);  v += (1 - beta2) (dW^2 - v);  W -= lr m / (sqrt(v) + 1e-7)"""
    m += (1 - beta1) * (dW - m)
    v += (1 - beta2) * (dW * dW - v)
    W -= lr * m / (np.sqrt(v) + 1e-7)


def sum_of_squares(x):
    """The sum of the squares, in float64."""
    return float(np.sum(np.square(x, dtype=np.float64)))


def scale_array(x, factor):
    """x *= factor"""
    x *= factor


def sigmoid(x):
    """1 / (1 + e^-x) by the side of 0 on which the exponential cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)
