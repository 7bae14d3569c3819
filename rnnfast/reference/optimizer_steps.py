"""Steps of the optimizers, and what clipping needs. Arrays of any shape."""

import numpy as np


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
