"""The plain recurrent layer: h_t = tanh(x_t Wx + h_{t-1} Wh + b).

Inside, everything is time-major, so that the rows of one time step lie together and all time
steps together are one matrix of T*N rows: the products over the whole block (input projection,
weight gradients, dx) are then single matrix products, which NumPy does; the loop over time is
compiled. `hs` has T+1 entries, hs[0] being the initial state, so that step 0 is no special case.
"""

import numpy as np

from ._scalar cimport add_product, real, tanh_of


def rnn_forward(xs, Wx, Wh, b, h0):
    """Run the layer over a block. See `rnnfast.reference.ops.rnn_forward` for the contract."""
    N, T, D = xs.shape
    H = h0.shape[1]
    xs = xs.transpose(1, 0, 2).copy()
    hs = np.empty((T + 1, N, H), h0.dtype)
    hs[0] = h0
    # hs[1:] starts as the part of the pre-activation that needs no recurrence
    np.matmul(xs.reshape(T * N, D), Wx, out=hs[1:].reshape(T * N, H))
    hs[1:] += b
    _forward_steps(hs, np.ascontiguousarray(Wh))
    return hs[1:].transpose(1, 0, 2).copy(), hs[T].copy(), (xs, hs)


def rnn_backward(dhs, dh, cache, Wx, Wh, dWx, dWh, db, *, truncate=0):
    """Gradients of the block. See `rnnfast.reference.ops.rnn_backward` for the contract."""
    xs, hs = cache
    T, N, D = xs.shape
    H = hs.shape[2]
    das = np.empty((T, N, H), hs.dtype)
    dh = dh.copy()
    _backward_steps(dhs, hs, np.ascontiguousarray(Wh.T), truncate, das, dh)
    das = das.reshape(T * N, H)
    dWx[...] = xs.reshape(T * N, D).T @ das
    dWh[...] = hs[:T].reshape(T * N, H).T @ das
    das.sum(axis=0, out=db)
    dxs = (das @ Wx.T).reshape(T, N, D).transpose(1, 0, 2)
    return dxs.copy(), dh


def _forward_steps(
    real[:, :, ::1] hs,          # INOUT (T+1, N, H): initial state, then x_t Wx + b -> h_t
    const real[:, ::1] Wh,       # IN (H, H)
):
    """h_t = tanh(x_t Wx + b + h_{t-1} Wh)"""
    cdef Py_ssize_t T = hs.shape[0] - 1, N = hs.shape[1], H = hs.shape[2]
    cdef Py_ssize_t t, k
    cdef real* h
    with nogil:
        for t in range(T):
            h = &hs[t + 1, 0, 0]
            add_product(h, &hs[t, 0, 0], &Wh[0, 0], N, H, H)
            for k in range(N * H):
                h[k] = tanh_of(h[k])


def _backward_steps(
    const real[:, :, :] dhs,      # IN (N, T, H): gradients arriving at the outputs
    const real[:, :, ::1] hs,     # IN (T+1, N, H)
    const real[:, ::1] WhT,       # IN (H, H): Wh transposed
    Py_ssize_t truncate,          # steps between cuts of the gradient, 0: none
    real[:, :, ::1] das,          # OUT (T, N, H): gradients of the pre-activations
    real[:, ::1] dh,              # INOUT (N, H): gradient of the last state -> of the initial one
):
    """da_t = (dhs_t + dh) (1 - h_t^2);  dh = da_t Wh^T"""
    cdef Py_ssize_t N = dhs.shape[0], T = dhs.shape[1], H = dhs.shape[2]
    cdef Py_ssize_t t, n, j
    cdef real h
    with nogil:
        for t in range(T - 1, -1, -1):
            if truncate > 0 and t + 1 < T and (t + 1) % truncate == 0:
                dh[:, :] = 0
            for n in range(N):
                for j in range(H):
                    h = hs[t + 1, n, j]
                    das[t, n, j] = (dhs[n, t, j] + dh[n, j]) * (1 - h * h)
                    dh[n, j] = 0
            add_product(&dh[0, 0], &das[t, 0, 0], &WhT[0, 0], N, H, H)
