"""The embedding. V vocabulary size, D vector size, M tokens, U distinct ones."""

import numpy as np


def embedding_forward(W, ids):
    """Rows of a table: W (V, D), ids of any shape (...) -> (..., D)"""
    return W[ids]


def embedding_backward(dout, ids, dW):
    """dout (..., D), ids (...); dW (V, D) is overwritten: row v collects every dout of id v."""
    sums = np.zeros(dW.shape)  # in double, since there may be very many rows
    np.add.at(sums, ids, dout)
    dW[...] = sums


def distinct(ids, V):
    """ids (...) -> tokens (U,), those that occur, in the order of their first places, and index
    (...), with tokens[index] == ids"""
    tokens, first, index = np.unique(ids, return_index=True, return_inverse=True)
    order = first.argsort()
    return tokens[order], order.argsort()[index].reshape(ids.shape)
