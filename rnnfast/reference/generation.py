"""Generation, token by token. V vocabulary size, D embedding size, H hidden size."""

from collections.abc import Sequence

import numpy as np

from .._types import Array, Ids
from ..cells import Cell
from .affine import affine_forward
from .recurrent import recurrent_forward


def generate(
    embed_W: Array,
    layers: Sequence[tuple[Cell, *tuple[Array, ...]]],
    affine_W: Array,
    affine_b: Array,
    states: Sequence[Array | None],
    first: int,
    length: int,
    temperature: float,
    skip_ids: list[int],
    uniforms: Array,
) -> tuple[Ids, list[Array | None]]:
    """Tokens, each drawn from what a language model makes of those before.

    embed_W (V, D); layers: for each a tuple of its cell, one of `rnnfast.cells`, and the weights
    that the cell names; affine_W (H, V), affine_b (V,); states: of each layer (S, 1, H), or None
    for zeros; first: the id that comes first; length: how many to draw; temperature: the logits are
    divided by it, 0 takes the likeliest; skip_ids: a list of ids that are never drawn; uniforms
    (length,) float64, random numbers in 0 <= u < 1, one for each draw
    -> ids (length,), int64, and the states after the last but one of them has been read
    """
    ids = np.empty(length, np.int64)
    states = list(states)
    token = first
    for k in range(length):
        x = embed_W[None, None, token]
        for j, (cell, *weights) in enumerate(layers):
            x, states[j], _ = recurrent_forward(cell, x, weights, states[j])
        logits = affine_forward(x[0], affine_W, affine_b)[0].astype(np.float64)
        logits[skip_ids] = -np.inf
        ids[k] = token = draw(logits, temperature, uniforms[k] if temperature else None)
    return ids, states


def draw(logits: Array, temperature: float, u: float | None) -> int:
    """One index, with probability proportional to e^(logit / temperature); the likeliest where
    that is 0, or there is no u."""
    if temperature == 0 or u is None:
        return int(logits.argmax())
    # subtracted before the division, so that a tiny temperature cannot overflow to inf - inf
    with np.errstate(over="ignore"):  # -inf is as good as any very negative number here
        p = np.exp((logits - logits.max()) / temperature)
    cumulated = p.cumsum()
    # side="right": a draw of exactly 0 must not select a first token of probability 0
    return min(int(np.searchsorted(cumulated, u * cumulated[-1], "right")), len(p) - 1)
