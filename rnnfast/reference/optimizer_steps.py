"""Steps of the optimizers, and what clipping needs. Arrays of any shape."""

import numpy as np

from .._types import Array


def sgd_step(W: Array, dW: Array, lr: float) -> None:
    """W -= lr dW"""
    W -= lr * dW


def momentum_step(W: Array, dW: Array, v: Array, lr: float, momentum: float) -> None:
    """v = momentum v - lr dW;  W += v"""
    v *= momentum
    v -= lr * dW
    W += v


def adagrad_step(W: Array, dW: Array, h: Array, lr: float) -> None:
    """h += dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""
    h += dW * dW
    W -= lr * dW / (np.sqrt(h) + 1e-7)


def rmsprop_step(W: Array, dW: Array, h: Array, lr: float, decay: float) -> None:
    """h = decay h + (1 - decay) dW^2;  W -= lr dW / (sqrt(h) + 1e-7)"""
    h *= decay
    h += (1 - decay) * dW * dW
    W -= lr * dW / (np.sqrt(h) + 1e-7)


def adam_step(
    W: Array, dW: Array, m: Array, v: Array, lr: float, beta1: float, beta2: float
) -> None:
    """m += (1 - beta1) (dW - m);  v += (1 - beta2) (dW^2 - v);  W -= lr m / (sqrt(v) + 1e-7)"""
    m += (1 - beta1) * (dW - m)
    v += (1 - beta2) * (dW * dW - v)
    W -= lr * m / (np.sqrt(v) + 1e-7)


def sum_of_squares(x: Array) -> float:
    """The sum of the squares, in float64."""
    return float(np.sum(np.square(x, dtype=np.float64)))


def scale_array(x: Array, factor: float) -> None:
    """x *= factor"""
    x *= factor
