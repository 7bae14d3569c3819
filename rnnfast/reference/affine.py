"""The affine layer. M rows, D inputs, V outputs."""

import numpy as np

from .._types import Array


def affine_forward(x: Array, W: Array, b: Array) -> Array:
    """x W + b: x (..., D), W (D, V), b (V,) -> (..., V)"""
    out: Array = _rows(x) @ W + b
    return out.reshape(*x.shape[:-1], -1)


def affine_backward(dout: Array, x: Array, W: Array, dW: Array, db: Array) -> Array:
    """Gradients of `affine_forward`: dout (..., V); dW, db are overwritten -> that of x (..., D)"""
    rows = _rows(dout)
    dW[...] = _rows(x).T @ rows
    db[...] = rows.sum(axis=0, dtype=np.float64)
    dx: Array = rows @ W.T
    return dx.reshape(x.shape)


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])
