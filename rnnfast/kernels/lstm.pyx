"""The LSTM layer. Gate columns stand in the order f, g, i, o: a_t = x_t Wx + h_{t-1} Wh + b,

    f = sigmoid(a_f)   g = tanh(a_g)   i = sigmoid(a_i)   o = sigmoid(a_o)
    c_t = f c_{t-1} + g i              h_t = o tanh(c_t)

Time-major inside, with T+1 states, for the reasons that rnn.pyx gives.
"""

import numpy as np

from ._scalar cimport add_product, real, sigmoid_of, tanh_of


def lstm_forward(xs, Wx, Wh, b, h0, c0):
    """Run the layer over a block. See `rnnfast.reference.ops.lstm_forward` for the contract."""
    N, T, D = xs.shape
    H = h0.shape[1]
    xs = xs.transpose(1, 0, 2).copy()
    hs = np.empty((T + 1, N, H), h0.dtype)
    cs = np.empty_like(hs)
    hs[0] = h0
    cs[0] = c0
    tanh_cs = np.empty((T, N, H), h0.dtype)
    # the gates start as the part of the pre-activations that needs no recurrence
    gates = np.empty((T, N, 4 * H), h0.dtype)
    np.matmul(xs.reshape(T * N, D), Wx, out=gates.reshape(T * N, 4 * H))
    gates += b
    _forward_steps(gates, hs, cs, tanh_cs, np.ascontiguousarray(Wh))
    out = hs[1:].transpose(1, 0, 2).copy()
    return out, hs[T].copy(), cs[T].copy(), (xs, hs, cs, tanh_cs, gates)


def lstm_backward(dhs, dh, dc, cache, Wx, Wh, dWx, dWh, db, *, truncate=0):
    """Gradients of the block. See `rnnfast.reference.ops.lstm_backward` for the contract."""
    xs, hs, cs, tanh_cs, gates = cache
    T, N, D = xs.shape
    H = hs.shape[2]
    das = np.empty_like(gates)
    dh = dh.copy()
    dc = dc.copy()
    _backward_steps(dhs, gates, cs, tanh_cs, np.ascontiguousarray(Wh.T), truncate, das, dh, dc)
    das = das.reshape(T * N, 4 * H)
    dWx[...] = xs.reshape(T * N, D).T @ das
    dWh[...] = hs[:T].reshape(T * N, H).T @ das
    das.sum(axis=0, out=db)
    dxs = (das @ Wx.T).reshape(T, N, D).transpose(1, 0, 2)
    return dxs.copy(), dh, dc


def _forward_steps(
    real[:, :, ::1] gates,       # INOUT (T, N, 4H): x_t Wx + b -> f, g, i, o
    real[:, :, ::1] hs,          # INOUT (T+1, N, H): initial state, then written
    real[:, :, ::1] cs,          # INOUT (T+1, N, H): initial state, then written
    real[:, :, ::1] tanh_cs,     # OUT (T, N, H)
    const real[:, ::1] Wh,       # IN (H, 4H)
):
    """c_t = f c_{t-1} + g i;  h_t = o tanh(c_t)"""
    cdef Py_ssize_t T = tanh_cs.shape[0], N = tanh_cs.shape[1], H = tanh_cs.shape[2]
    cdef Py_ssize_t t, n, j
    cdef real* gate
    cdef real f, g, i, o
    with nogil:
        for t in range(T):
            add_product(&gates[t, 0, 0], &hs[t, 0, 0], &Wh[0, 0], N, H, 4 * H)
            for n in range(N):
                gate = &gates[t, n, 0]
                for j in range(H):
                    f = sigmoid_of(gate[j])
                    g = tanh_of(gate[H + j])
                    i = sigmoid_of(gate[2 * H + j])
                    o = sigmoid_of(gate[3 * H + j])
                    gate[j] = f
                    gate[H + j] = g
                    gate[2 * H + j] = i
                    gate[3 * H + j] = o
                    cs[t + 1, n, j] = f * cs[t, n, j] + g * i
                    tanh_cs[t, n, j] = tanh_of(cs[t + 1, n, j])
                    hs[t + 1, n, j] = o * tanh_cs[t, n, j]


def _backward_steps(
    const real[:, :, :] dhs,      # IN (N, T, H): gradients arriving at the outputs
    const real[:, :, ::1] gates,  # IN (T, N, 4H): f, g, i, o
    const real[:, :, ::1] cs,     # IN (T+1, N, H)
    const real[:, :, ::1] tanh_cs,  # IN (T, N, H)
    const real[:, ::1] WhT,       # IN (4H, H): Wh transposed
    Py_ssize_t truncate,          # steps between cuts of the gradient, 0: none
    real[:, :, ::1] das,          # OUT (T, N, 4H): gradients of the pre-activations
    real[:, ::1] dh,              # INOUT (N, H): gradient of the last state -> of the initial one
    real[:, ::1] dc,              # INOUT (N, H): the same of the cell
):
    """With dh the whole gradient of h_t and u = tanh(c_t):

        dc += dh o (1 - u^2)
        da_f = dc c_{t-1} f (1 - f)    da_g = dc i (1 - g^2)
        da_i = dc g i (1 - i)          da_o = dh u o (1 - o)
        dc_{t-1} = dc f                dh_{t-1} = da Wh^T
    """
    cdef Py_ssize_t N = dhs.shape[0], T = dhs.shape[1], H = dhs.shape[2]
    cdef Py_ssize_t t, n, j
    cdef const real* gate
    cdef real* da
    cdef real f, g, i, o, u, dh_t, dc_t
    with nogil:
        for t in range(T - 1, -1, -1):
            if truncate > 0 and t + 1 < T and (t + 1) % truncate == 0:
                dh[:, :] = 0
                dc[:, :] = 0
            for n in range(N):
                gate = &gates[t, n, 0]
                da = &das[t, n, 0]
                for j in range(H):
                    f = gate[j]
                    g = gate[H + j]
                    i = gate[2 * H + j]
                    o = gate[3 * H + j]
                    u = tanh_cs[t, n, j]
                    dh_t = dhs[n, t, j] + dh[n, j]
                    dc_t = dc[n, j] + dh_t * o * (1 - u * u)
                    da[j] = dc_t * cs[t, n, j] * f * (1 - f)
                    da[H + j] = dc_t * i * (1 - g * g)
                    da[2 * H + j] = dc_t * g * i * (1 - i)
                    da[3 * H + j] = dh_t * u * o * (1 - o)
                    dc[n, j] = dc_t * f
                    dh[n, j] = 0
            add_product(&dh[0, 0], &das[t, 0, 0], &WhT[0, 0], N, 4 * H, H)
