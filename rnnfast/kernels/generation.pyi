"""Generation of tokens. V vocabulary size, D input size, H hidden size.

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

from ..cells import Cell

_Real = TypeVar("_Real", float32, float64)

class Model: ...

def generate(
    embed_W: NDArray[_Real],  # (V, D)
    layers: list[tuple[Cell | NDArray[_Real], ...]],  # (cell, Wx, Wh, b) of each
    affine_W: NDArray[_Real],  # (H, V)
    affine_b: NDArray[_Real],  # (V,)
    states: list[NDArray[_Real] | None],  # (S, 1, H) of each
    first: int,
    length: int,
    temperature: float,
    skip_ids: list[int],
    uniforms: NDArray[float64],  # (length,)
) -> tuple[NDArray[int64], list[NDArray[_Real]]]: ...
