"""Initial weights of a recurrent layer, drawn at random, by the names of who has them so.

Letters in shapes: D input size, H hidden size, G gates.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from .._random import Generator
from .._types import Array
from ..cells import Cell

Init: TypeAlias = Literal["textbook", "pytorch", "keras"]
Weights: TypeAlias = list[Array]
"""Of one direction of one layer, float64, in the order of `cell.weights`, in which they are drawn,
every matrix row by row with the columns of all gates."""


def textbook(cell: Cell, D: int, H: int, rng: Generator) -> Weights:
    """Normal, divided by the square root of the number of rows; biases are 0."""
    columns = cell.G * H
    matrices = [rng.standard_normal((rows, columns)) / np.sqrt(rows) for rows in (D, H)]
    return matrices + _zeros(cell, H)


def pytorch(cell: Cell, D: int, H: int, rng: Generator) -> Weights:
    """Uniform within 1/sqrt(H), biases too.

    Where PyTorch adds two biases and a cell has b alone, b is drawn as one of them.
    """
    bound, columns = 1 / np.sqrt(H), cell.G * H
    matrices = [rng.uniform(-bound, bound, (rows, columns)) for rows in (D, H)]
    return matrices + [rng.uniform(-bound, bound, columns) for _ in cell.weights[2:]]


def keras(cell: Cell, D: int, H: int, rng: Generator) -> Weights:
    """Wx uniform within sqrt(6 / (D + G*H)) (Glorot and Bengio 2010), Wh with orthonormal rows
    (Saxe et al. 2014), biases 0 but that of a forget gate f, which is 1.

    Both are of the whole matrix, not of each gate: so has Keras one kernel for all of them.
    """
    bound = np.sqrt(6 / (D + cell.G * H))
    Wx = rng.uniform(-bound, bound, (D, cell.G * H))
    Q, R = np.linalg.qr(rng.standard_normal((cell.G * H, H)))
    # with the signs of the diagonal of R, every rotation is as likely as any other
    Wh = (Q * np.copysign(1, np.diag(R))).T
    b, *bh = _zeros(cell, H)
    if "f" in cell.gates:
        b[cell.gates.index("f") * H :][:H] = 1
    return [Wx, Wh, b, *bh]


def _zeros(cell: Cell, H: int) -> Weights:
    return [np.zeros(cell.G * H) for _ in cell.weights[2:]]


INITS: dict[str, Callable[[Cell, int, int, Generator], Weights]] = {
    "textbook": textbook,
    "pytorch": pytorch,
    "keras": keras,
}


def init_by_name(name: Init) -> Callable[[Cell, int, int, Generator], Weights]:
    """What draws the weights."""
    if not isinstance(name, str) or name not in INITS:
        raise ValueError(f"init: expected one of {', '.join(INITS)}, got {name!r}")
    return INITS[name]
