"""The affine layer. M rows, D inputs, V outputs."""

import numpy as np

from .._types import Array


def affine_forward(x: Array, W: Array, b: Array) -> Array:
    """x W + b: x (M, D), W (D, V), b (V,) -> (M, V)"""
    return x @ W + b


def affine_backward(dout: Array, x: Array, W: Array, dW: Array, db: Array) -> Array:
    """Gradients of `affine_forward`: dout (M, V); dW, db are overwritten -> gradient of x (M, D)"""
    dW[...] = x.T @ dout
    db[...] = dout.sum(axis=0, dtype=np.float64)
    return dout @ W.T
