"""Dot-product attention. N batch rows, S steps of the encoder, T of the decoder, H hidden size."""

import numpy as np

from .._types import Array, Ids


def attention_forward(enc: Array, dec: Array, lengths: Ids | None) -> tuple[Array, Array]:
    """Softmax of dec_t . enc_s over s, and the sums of enc with these weights.

    enc (N, S, H), dec (N, T, H), lengths (N,) or None: how many steps of enc a row has; those
    beyond are not looked at, and have weight 0, as all have where there is none
    -> contexts (N, T, H), weights (N, T, S) C-contiguous
    """
    enc, used = _used_steps(enc, lengths)
    scores = np.where(used, dec @ enc.swapaxes(1, 2), -np.inf)
    with np.errstate(invalid="ignore"):  # NaN where a row has no steps, and then 0
        weights: Array = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
    weights = np.where(used, weights, 0)
    return weights @ enc, weights


def attention_backward(
    dout: Array, enc: Array, dec: Array, weights: Array, lengths: Ids | None
) -> tuple[Array, Array]:
    """Gradients of `attention_forward`, whose weights are `weights`.

    dout (N, T, H), that of the contexts -> those of enc, 0 beyond lengths, and of dec
    """
    enc, used = _used_steps(enc, lengths)
    dweights = np.where(used, dout @ enc.swapaxes(1, 2), 0)
    dscores = weights * (dweights - (dweights * weights).sum(axis=2, keepdims=True))
    denc = weights.swapaxes(1, 2) @ dout + dscores.swapaxes(1, 2) @ dec
    return np.where(used.swapaxes(1, 2), denc, 0), dscores @ enc


def _used_steps(enc: Array, lengths: Ids | None) -> tuple[Array, Array]:
    """enc with 0 in steps beyond lengths, which may hold anything, and which steps are used,
    (N, 1, S)."""
    N, S, _ = enc.shape
    if lengths is None:
        return enc, np.ones((N, 1, S), bool)
    used = np.arange(S) < lengths[:, None]
    return np.where(used[:, :, None], enc, 0), used[:, None]
