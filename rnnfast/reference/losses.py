"""Cross entropy of a softmax, of logits and of an affine layer, and of a sigmoid.

Letters: M rows, D inputs, V outputs.
"""

from typing import Any

import numpy as np

from .._types import Array, Ids
from .affine import affine_backward, affine_forward


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
) -> tuple[float, int, Any]:
    """`softmax_loss_forward` of `affine_forward`, in one pass.

    x (M, D), W (D, V), b (V,), targets (M,)
    -> the sum of the losses as a float64, how many rows it has, cache

    Gradients are taken at the W of this call, and only where `need_gradient`. A `cache` that is no
    longer needed may be handed back for its memory.
    """
    logits = affine_forward(x, W, b)
    total, count, probs = softmax_loss_forward(logits, targets, ignore_label)
    dlogits = softmax_loss_backward(probs, targets, ignore_label, 1 / max(count, 1))
    return total, count, (x.copy(), W.copy(), dlogits) if need_gradient else None


def affine_loss_backward(cache: Any, scale: float, dW: Array, db: Array) -> Array:
    """Gradients of `scale` times the mean of the losses: dW, db are overwritten -> gradient of x"""
    x, W, dlogits = cache
    return affine_backward(dlogits * dlogits.dtype.type(scale), x, W, dW, db)
