"""The affine layer. M rows, D inputs, V outputs."""

import numpy as np

from .._types import Array
from .rounding import product_in


def affine_forward(x: Array, W: Array, b: Array, *, precision: str | None = None) -> Array:
    """x W + b: x (..., D), W (D, V), b (V,) -> (..., V)

    precision: "bfloat16" rounds the operands of the product, x and W, which are float32 then.
    """
    out = product_in(precision)(_rows(x), W) + b
    return out.reshape(*x.shape[:-1], -1)


def affine_backward(
    dout: Array, x: Array, W: Array, dW: Array, db: Array, *, precision: str | None = None
) -> Array:
    """Gradients of `affine_forward`: dout (..., V); dW, db are overwritten -> that of x (..., D)

    precision: "bfloat16" rounds the operands of both products, dout too; db is a sum of dout as it
    is. The gradients are those of the rounded x and W, and pass the rounding as they are.
    """
    product, rows = product_in(precision), _rows(dout)
    dW[...] = product(_rows(x).T, rows)
    db[...] = rows.sum(axis=0, dtype=np.float64)
    return product(rows, W.T).reshape(x.shape)


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])
