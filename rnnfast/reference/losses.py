"""Cross entropy of a softmax, of logits and of an affine layer, and of a sigmoid.

Letters: M rows, D inputs, V outputs.
"""

from typing import Any

import numpy as np

from .._types import Array, Ids
from .affine import affine_forward
from .rounding import product_in


def softmax_loss_forward(
    logits: Array, targets: Ids, ignore_label: int
) -> tuple[float, int, Array]:
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


def softmax_loss_backward(probs: Array, targets: Ids, ignore_label: int, scale: float) -> Array:
    """Gradient of `scale` times the sum of `softmax_loss_forward`, with respect to the logits:
    scale (p - onehot), and 0 in ignored rows.

    probs (M, V), targets (M,), scale a float -> (M, V)
    """
    (rows,) = np.nonzero(targets != ignore_label)
    dlogits = np.zeros_like(probs)
    dlogits[rows] = probs[rows]
    dlogits[rows, targets[rows]] -= 1
    dlogits *= scale
    return dlogits


def sigmoid_loss_forward(logits: Array, sides: Array) -> tuple[float, Array]:
    """Cross entropy of the sigmoid, in nats: log(1 + e^z), z = side x, summed, where the side is 1
    for a target of 0, -1 for a target of 1, and 0 for one that is ignored, and so is the loss.

    logits (M,) C-contiguous, sides (M,), int8 -> the sum as a float64, its gradient (M,): side
    sigmoid(z), which is sigmoid(x) less the target
    """
    # how far a logit is on the wrong side: one that is ignored, as far as can be on the right
    z = np.where(sides > 0, logits, np.where(sides < 0, -logits, -np.inf))
    small = np.exp(-np.abs(z))  # overflows nowhere
    losses = np.log1p(small) + np.maximum(z, 0)
    return float(losses.sum(dtype=np.float64)), sides * (np.where(z > 0, 1, small) / (1 + small))


def affine_loss_forward(
    x: Array,
    W: Array,
    b: Array,
    targets: Ids,
    ignore_label: int,
    *,
    need_gradient: bool = True,
    cache: Any = None,
    precision: str | None = None,
) -> tuple[float, int, Any]:
    """`softmax_loss_forward` of `affine_forward`, in one pass.

    x (M, D), W (D, V), b (V,), targets (M,)
    -> the sum of the losses as a float64, how many rows it has, cache

    Gradients are taken at the W of this call, and only where `need_gradient`. A `cache` that is no
    longer needed may be handed back for its memory.

    precision: "bfloat16" rounds the operands of all three products, of arrays in float32: x and W;
    G = e - s onehot and W; x / (s count) and G, where e^(logit - the largest) is e, and s their
    sum in a row. The gradients pass the rounding as they are.
    """
    logits = affine_forward(x, W, b, precision=precision)
    total, count, _ = softmax_loss_forward(logits, targets, ignore_label)
    if not need_gradient:
        return total, count, None
    (rows,) = np.nonzero(targets != ignore_label)
    G, factor = np.zeros_like(logits), np.zeros((len(x), 1), x.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # as in the loss
        G[rows] = np.exp(logits[rows] - logits[rows].max(axis=1, keepdims=True))
    sums = G[rows].sum(axis=1)
    G[rows, targets[rows]] -= sums
    factor[rows, 0] = 1 / (sums * count)
    return total, count, (x.copy(), W.copy(), G, factor, product_in(precision))


def affine_loss_backward(cache: Any, scale: float, dW: Array, db: Array) -> Array:
    """Gradients of `scale` times the mean of the losses: dW, db are overwritten -> gradient of x"""
    x, W, G, factor, product = cache
    scale = G.dtype.type(scale)
    dW[...] = scale * product((factor * x).T, G)
    db[...] = scale * (factor * G).sum(axis=0, dtype=np.float64)
    dx: Array = scale * factor * product(G, W.T)
    return dx
