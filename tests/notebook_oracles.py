"""The notebooks' mathematics a second time, with nothing of rnnfast: one sequence, one step at a
time, vectors and outer products in float64. Frozen numbers and whole gradients come from here.
"""

import numpy as np


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def cross_entropy(logits, target):
    p = softmax(logits)
    return -np.log(p[target]), p - np.eye(len(p))[target]


def inverse_probability(logits, target, eps=1e-8):
    """1/(p+eps), its gradient by the whole Jacobian of the softmax."""
    p = softmax(logits)
    jacobian = np.diag(p) - np.outer(p, p)
    return 1 / (p[target] + eps), -jacobian[target] / (p[target] + eps) ** 2


def half_square(y, target):
    return 0.5 * np.sum((y - target) ** 2), y - target


def rnn(xs, targets, weights, loss, *, truncate=None, h0=None):
    """One sequence xs (T, D): (sum of losses, gradients by name, gradients of xs, last state).

    weights: Wx (D, H), Wh (H, H), b (H,), Wy (H, M), by (M,)
    """
    Wx, Wh, b, Wy, by = (weights[name] for name in ("Wx", "Wh", "b", "Wy", "by"))
    hs = [np.zeros(len(b)) if h0 is None else h0]
    for x in xs:
        hs.append(np.tanh(x @ Wx + hs[-1] @ Wh + b))
    grads = {name: np.zeros_like(W) for name, W in weights.items()}
    dxs, dh, total = np.zeros_like(xs), np.zeros(len(b)), 0.0
    for t in reversed(range(len(xs))):
        value, dy = loss(hs[t + 1] @ Wy + by, targets[t])
        total += value
        if truncate and (t + 1) % truncate == 0:
            dh = np.zeros(len(b))
        da = (dh + Wy @ dy) * (1 - hs[t + 1] ** 2)
        grads["Wy"] += np.outer(hs[t + 1], dy)
        grads["by"] += dy
        grads["Wx"] += np.outer(xs[t], da)
        grads["Wh"] += np.outer(hs[t], da)
        grads["b"] += da
        dxs[t] = Wx @ da
        dh = Wh @ da
    return total, grads, dxs, hs[-1]


def embedded_rnn(X, targets, W_embed, weights, loss, *, truncate=None, h0=None):
    """Lanes of ids X (N, T) through a table and `rnn`: (mean loss, gradients, last states)."""
    grads = {name: np.zeros_like(W) for name, W in weights.items()}
    grads["W_embed"] = np.zeros_like(W_embed)
    total, last = 0.0, []
    for n, ids in enumerate(X):
        start = None if h0 is None else h0[n]
        value, shares, dxs, h = rnn(
            W_embed[ids], targets[n], weights, loss, truncate=truncate, h0=start
        )
        total += value
        last.append(h)
        for name, share in shares.items():
            grads[name] += share
        for t, token in enumerate(ids):
            grads["W_embed"][token] += dxs[t]
    return total / X.size, {name: g / X.size for name, g in grads.items()}, np.array(last)


def lstm(ids, targets, p, state=None):
    """One sequence of characters in the form of notebook 004, on column vectors: (sum of losses,
    gradients by name, last h and C).

    p: W_f, W_i, W_C, W_o (H, H+V), W_v (V, H), biases (H, 1) and (V, 1)
    """
    V, H = p["W_v"].shape

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    h, C = (np.zeros((H, 1)), np.zeros((H, 1))) if state is None else state
    steps = []
    for token in ids:
        z = np.vstack((h, np.eye(V)[:, [token]]))
        f, i, o = (sigmoid(p[f"W_{gate}"] @ z + p[f"b_{gate}"]) for gate in "fio")
        C_bar = np.tanh(p["W_C"] @ z + p["b_C"])
        C_prev, C = C, f * C + i * C_bar
        h = o * np.tanh(C)
        steps.append((z, f, i, o, C_bar, C_prev, C, h))
    last = h, C
    grads = {name: np.zeros_like(W) for name, W in p.items()}
    dh = dC = np.zeros((H, 1))
    total = 0.0
    for (z, f, i, o, C_bar, C_prev, C, h), target in zip(
        reversed(steps), targets[::-1], strict=True
    ):
        value, dv = cross_entropy((p["W_v"] @ h + p["b_v"])[:, 0], target)
        total += value
        dv = dv[:, None]
        grads["W_v"] += dv @ h.T
        grads["b_v"] += dv
        dh = dh + p["W_v"].T @ dv
        dC = dC + dh * o * (1 - np.tanh(C) ** 2)
        das = {
            "f": dC * C_prev * f * (1 - f),
            "i": dC * C_bar * i * (1 - i),
            "C": dC * i * (1 - C_bar**2),
            "o": dh * np.tanh(C) * o * (1 - o),
        }
        dz = np.zeros_like(z)
        for gate, da in das.items():
            grads[f"W_{gate}"] += da @ z.T
            grads[f"b_{gate}"] += da
            dz += p[f"W_{gate}"].T @ da
        dh, dC = dz[:H], dC * f
    return total, grads, last


def descend(weights, grads, lr):
    for name, W in weights.items():
        W -= lr * grads[name]
