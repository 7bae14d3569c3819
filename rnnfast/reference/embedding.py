"""The embedding. V vocabulary size, D vector size, M tokens, U distinct ones."""

import numpy as np

from .._types import Array, Ids


def embedding_forward(W: Array, ids: Ids) -> Array:
    """Rows of a table: W (V, D), ids of any shape (...) -> (..., D)"""
    return W[ids]


def embedding_backward(dout: Array, ids: Ids, dW: Array, filled: Ids | None = None) -> None:
    """dout (..., D), ids (...); dW (V, D) is overwritten: row v collects every dout of id v.

    `filled` has the numbers of all rows of dW that may differ from zero before; None: any.
    """
    tokens, index = distinct(ids, len(dW))
    sums = np.zeros((len(tokens), dW.shape[1]))  # in double, since there may be very many rows
    np.add.at(sums, index, dout)
    dW[... if filled is None else filled] = 0
    dW[tokens] = sums


def distinct(ids: Ids, V: int) -> tuple[Ids, Ids]:
    """ids (...) -> tokens (U,), those that occur, in the order of their first places, and index
    (...), with tokens[index] == ids"""
    tokens, first, index = np.unique(ids, return_index=True, return_inverse=True)
    order = first.argsort()
    return tokens[order], order.argsort()[index].reshape(ids.shape)
