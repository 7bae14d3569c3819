"""The affine layer. M rows, D inputs, V outputs."""

import numpy as np


def affine_forward(x, W, b):
    """x W + b: x (M, D), W (D, V), b (V,) -> (M, V)"""
    return x @ W + b


def affine_backward(dout, x, W, dW, db):
    """Gradients of `affine_forward`: dout (M, V); dW, db are overwritten -> gradient of x (M, D)"""
    dW[...] = x.T @ dout
    db[...] = dout.sum(axis=0, dtype=np.float64)
    return dout @ W.T
