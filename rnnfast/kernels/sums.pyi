"""Sums of weight gradients, as tests see them. `sums.pyx` documents them."""

from typing import TypeVar

from numpy import float32, float64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def product_of_columns(
    A: NDArray[_Real],  # (K, M), C-contiguous
    B: NDArray[_Real],  # (K, N)
    tile_rows: int,
    precision: str | None = ...,
) -> NDArray[_Real]: ...
