"""How likely a model finds a text, token by token."""

from typing import Any

import numpy as np

from .._checks import as_array, as_ids
from .._types import Array, ArrayLike
from ..models.decoding import require_numbers
from .lanes import PADDING
from .sampling import vocab_size_of

BLOCK = 2**20  # logits at a time, in float64


def log_probabilities(model: Any, prime: ArrayLike, ids: ArrayLike) -> Array:
    """Log probability of every token, given all that stands before it.

    They are those with which `generate(model, prime, M)` draws, token by token; so their sum is
    that of all of `ids`, and -sum / M / log(2) are bits per token.

    Parameters
    ----------
    model : Rnnlm, SimpleRnnlm or another Network whose output is logits (N, T, V)
        It computes as in evaluation and starts from zeros; the state that it carries neither counts
        nor changes, and several threads may ask one model at once.
    prime : sequence of int
        Ids of what stands before, at least one. To score a whole text: `ids[:1]`, then `ids[1:]`.
    ids : array (M,) or (N, M)
        The tokens, or several continuations of the same beginning, shorter ones with -1 at their
        end, as `generate` returns them.

    Returns
    -------
    log_p : array (M,) or (N, M), float64, in nats; 0 where an id is -1

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and for models as in `generate`.
    InputError
        Where the model's logits are not finite numbers.

    Notes
    -----
    Made in blocks, so beside the arguments and the result memory does not grow with M. Softmax is
    computed in float64, logits in the dtype of the model.

    Examples
    --------
    >>> import rnnfast
    >>> model = rnnfast.Rnnlm(10, 4, 8, rng=0)
    >>> ids = rnnfast.generate(model, [1, 2], 20, samples=4, stop_ids=[5], rng=0)
    >>> rnnfast.log_probabilities(model, [1, 2], ids).sum(1).shape
    (4,)
    """
    vocab_size = vocab_size_of(model)
    if not hasattr(model, "infer"):
        raise TypeError(
            f"model: expected a Network, or what has a method infer as it has, got {model!r}"
        )
    prime = as_ids("prime", prime, vocab_size, ("M",))
    shape = np.shape(as_array("ids", ids))
    if not (len(shape) in (1, 2) and np.prod(shape)):
        raise ValueError(f"ids: expected an array of shape (M,) or (N, M), got {shape}")
    ts = np.atleast_2d(as_ids("ids", ids, vocab_size, shape, PADDING))
    if ((ts[:, :-1] == PADDING) & (ts[:, 1:] != PADDING)).any():
        raise ValueError(
            f"ids: expected {PADDING} at the end of a row only, got a token behind one"
        )
    N, M = ts.shape
    xs = np.column_stack([np.repeat(prime[-1], N), ts[:, :-1].clip(0)])
    read = getattr(model, "read", None) or (lambda before: model.infer(before)[1])
    states = None
    if len(prime) > 1:
        states = [np.repeat(state, N, -2) for state in read(prime[None, :-1])]
    log_p = np.empty((N, M))
    steps = max(1, BLOCK // (N * vocab_size))
    for t in range(0, M, steps):
        columns = slice(t, t + steps)
        logits, states = model.infer(xs[:, columns], states)
        log_p[:, columns] = _log_softmax(logits.astype(np.float64), ts[:, columns])
    return log_p.reshape(shape)


def _log_softmax(logits: Array, ts: Array) -> Array:
    """log softmax(logits (N, T, V)) of the targets (N, T), 0 where there is none."""
    used = ts != PADDING
    top = logits.max(-1, keepdims=True)
    require_numbers(np.isfinite(top[used]).all())
    with np.errstate(invalid="ignore", over="ignore"):  # where no target is
        logits -= top
        of_targets = np.take_along_axis(logits, ts.clip(0)[..., None], -1)[..., 0]
        np.exp(logits, out=logits)
        log_p: Array = of_targets - np.log(logits.sum(-1))
    return np.where(used, log_p, 0)
