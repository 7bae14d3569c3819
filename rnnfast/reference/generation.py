"""Generation, token by token. N rows, V vocabulary size, D embedding size, H hidden size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from .._types import Array, Ids
from ..cells import Cell
from .affine import affine_forward
from .recurrent import recurrent_forward

ENDED = -1  # stands for a token where a row has come to its end
BROKEN = -2  # and where logits were no numbers


class Choice(NamedTuple):
    """How a token is chosen from logits.

    Logits are divided by `temperature`; of the tokens whose ids are not in `skip_ids`, the `top_k`
    likeliest are kept, and of these the fewest likeliest whose probabilities, of those kept so far,
    sum to `top_p` at least; one is drawn from what is left. Of equally likely tokens the one of the
    smallest id is the likelier. Temperature 0 takes the likeliest. A row ends with a token in
    `stop_ids`.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    skip_ids: Sequence[int] = ()
    stop_ids: Sequence[int] = ()


class Writer(Protocol):
    """Rows of tokens; what has been written and read so far is its own."""

    def write(self, uniforms: Array) -> Ids:
        """The next K tokens of every row.

        uniforms (N, K) float64, random numbers in 0 <= u < 1, one for each draw -> ids (N, K),
        int64, `ENDED` behind a stop token of the row, `BROKEN` where one of its logits is NaN or
        the largest is infinite
        """


def writer(
    embed_W: Array,
    layers: Sequence[tuple[Cell, *tuple[Array, ...]]],
    affine_W: Array,
    affine_b: Array,
    states: Sequence[Array | None],
    first: Ids,
    length: int,
    choice: Choice,
    *,
    precision: str | None = None,
) -> Writer:
    """What draws tokens, each from what a language model makes of those before.

    embed_W (V, D); layers: for each a tuple of its cell, one of `rnnfast.cells`, and the weights
    that the cell names; affine_W (H, V), affine_b (V,); states: of each layer (S, N, H), or None
    for zeros; first (N,), int64: the ids that come first; length: how many each row will be asked
    for in all; precision: "bfloat16" rounds the operands of products, as in `recurrent_forward` and
    `affine_forward`
    """
    states = list(states)

    def predict(xs: Ids) -> Array:
        hs = embed_W[xs]
        for j, (cell, *weights) in enumerate(layers):
            hs, states[j], _ = recurrent_forward(cell, hs, weights, states[j], precision=precision)
        return affine_forward(hs[:, -1], affine_W, affine_b, precision=precision)

    return WriterOf(predict, first[:, None], choice)


class WriterOf:
    """A `Writer` for any model.

    predict: ids (N, T) that follow those of the calls before -> logits (N, V) of what comes next;
    first (N, M): the ids that come first
    """

    def __init__(self, predict: Callable[[Ids], Array], first: Ids, choice: Choice) -> None:
        self._predict, self._given, self._choice = predict, first, choice
        self._ended = np.zeros(len(first), bool)

    def write(self, uniforms: Array) -> Ids:
        """See `Writer`."""
        temperature, top_k, top_p, skip_ids, stop_ids = self._choice
        ids = np.full(uniforms.shape, ENDED)
        for column, us in zip(ids.T, uniforms.T, strict=True):
            if self._ended.all():
                break
            logits = self._predict(self._given).astype(np.float64)
            logits[:, skip_ids] = -np.inf
            for n in np.flatnonzero(~self._ended):
                column[n] = draw(logits[n], temperature, us[n], top_k, top_p)
            self._ended |= (column < 0) | np.isin(column, stop_ids)
            self._given = column.clip(0)[:, None]
        return ids


def draw(
    logits: Array,
    temperature: float,
    u: float | None,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> int:
    """One index, with probability proportional to e^(logit / temperature) among those that `top_k`
    and `top_p` keep, see `Choice`; the likeliest where temperature is 0, or there is no u.
    `BROKEN` where a logit is NaN, or the largest infinite."""
    if not np.isfinite(largest := logits.max()):
        return BROKEN
    if temperature == 0 or u is None:
        return int(logits.argmax())
    # subtracted before the division, so that a tiny temperature cannot overflow to inf - inf
    with np.errstate(over="ignore"):  # -inf is as good as any very negative number here
        p = np.exp((logits - largest) / temperature)
    if top_k is not None or top_p < 1:
        kept = np.argsort(-logits, kind="stable")[:top_k]
        if top_p < 1:
            sums = p[kept].cumsum()
            kept = kept[: np.searchsorted(sums, top_p * sums[-1]) + 1]
        p[np.isin(np.arange(len(p)), kept, invert=True)] = 0
    cumulated = p.cumsum()
    # side="right": a draw of exactly 0 must not select a first token of probability 0
    return int(np.searchsorted(cumulated, u * cumulated[-1], "right"))
