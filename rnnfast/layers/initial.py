"""Initial weights, drawn at random, by the names of who has them so.

Letters in shapes: D input size, H hidden size, G gates, V vocabulary size.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from .._random import Generator
from .._types import Array
from ..cells import Cell

Init: TypeAlias = Literal["textbook", "pytorch", "keras"]
Weights: TypeAlias = list[Array]
"""Of one layer, in one direction, float64, in the order of `params`, in which they are drawn, every
matrix row by row with the columns of all gates."""


class Draws(NamedTuple):
    """What draws the weights of each kind of layer."""

    recurrent: Callable[[Cell, int, int, Generator], Weights]
    """Of a cell, D, H and a generator."""
    embedding: Callable[[int, int, Generator], Weights]
    """Of V, D and a generator."""
    affine: Callable[[int, int, Generator], Weights]
    """Of H, V and a generator."""


def _textbook(cell: Cell, D: int, H: int, rng: Generator) -> Weights:
    """Normal, divided by the square root of the number of rows; biases are 0."""
    columns = cell.G * H
    matrices = [rng.standard_normal((rows, columns)) / np.sqrt(rows) for rows in (D, H)]
    return matrices + _zeros(cell, H)


def _pytorch(cell: Cell, D: int, H: int, rng: Generator) -> Weights:
    """Uniform within 1/sqrt(H), biases too.

    Where PyTorch adds two biases and a cell has b alone, b is drawn as one of them.
    """
    bound, columns = 1 / np.sqrt(H), cell.G * H
    matrices = [rng.uniform(-bound, bound, (rows, columns)) for rows in (D, H)]
    return matrices + [rng.uniform(-bound, bound, columns) for _ in cell.weights[2:]]


def _keras(cell: Cell, D: int, H: int, rng: Generator) -> Weights:
    """Wx uniform within sqrt(6 / (D + G*H)) (Glorot and Bengio 2010), Wh with orthonormal rows
    (Saxe et al. 2014), biases 0 but that of a forget gate f, which is 1.

    Both are of the whole matrix, not of each gate: so has Keras one kernel for all of them.
    """
    Wx = _glorot(D, cell.G * H, rng)
    Q, R = np.linalg.qr(rng.standard_normal((cell.G * H, H)))
    # with the signs of the diagonal of R, every rotation is as likely as any other
    Wh = (Q * np.copysign(1, np.diag(R))).T
    b, *bh = _zeros(cell, H)
    if "f" in cell.gates:
        b[cell.gates.index("f") * H :][:H] = 1
    return [Wx, Wh, b, *bh]


def _glorot(rows: int, columns: int, rng: Generator) -> Array:
    bound = np.sqrt(6 / (rows + columns))
    return rng.uniform(-bound, bound, (rows, columns))


def _zeros(cell: Cell, H: int) -> Weights:
    return [np.zeros(cell.G * H) for _ in cell.weights[2:]]


INITS: dict[str, Draws] = {
    "textbook": Draws(
        _textbook,
        embedding=lambda V, D, rng: [rng.standard_normal((V, D)) / 100],
        affine=lambda H, V, rng: [rng.standard_normal((H, V)) / np.sqrt(H), np.zeros(V)],
    ),
    "pytorch": Draws(
        _pytorch,
        embedding=lambda V, D, rng: [rng.standard_normal((V, D))],
        affine=lambda H, V, rng: [rng.uniform(-1, 1, size) / np.sqrt(H) for size in ((H, V), V)],
    ),
    "keras": Draws(
        _keras,
        embedding=lambda V, D, rng: [rng.uniform(-0.05, 0.05, (V, D))],
        affine=lambda H, V, rng: [_glorot(H, V, rng), np.zeros(V)],
    ),
}


def init_by_name(name: Init) -> Draws:
    """What draws the weights."""
    if not isinstance(name, str) or name not in INITS:
        raise ValueError(f"init: expected one of {', '.join(INITS)}, got {name!r}")
    return INITS[name]
