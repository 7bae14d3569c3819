"""Generation of tokens. N rows, V vocabulary size, D input size, H hidden size.

`rnnfast.reference.ops` documents what these functions do.
"""

from collections.abc import Sequence
from typing import TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

from ..cells import Cell
from ..reference.generation import Choice

_Real = TypeVar("_Real", float32, float64)

class Writer:
    def write(self, uniforms: NDArray[float64]) -> NDArray[int64]: ...  # (N, K) -> (N, K)

def writer(
    embed_W: NDArray[_Real],  # (V, D)
    layers: Sequence[tuple[Cell | NDArray[_Real], ...]],  # (cell, Wx, Wh, b) of each
    affine_W: NDArray[_Real],  # (H, V)
    affine_b: NDArray[_Real],  # (V,)
    states: Sequence[NDArray[_Real] | None],  # (S, N, H) of each
    first: NDArray[int64],  # (N,)
    length: int,
    choice: Choice,
    *,
    precision: str | None = ...,
) -> Writer: ...
