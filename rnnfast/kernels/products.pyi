"""Products, as tests see them. `products.pyx` documents them."""

from typing import TypeVar

from numpy import float32, float64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def matmul(
    A: NDArray[_Real],  # (M, K)
    B: NDArray[_Real],  # (K, N)
    precision: str | None = ...,
) -> NDArray[_Real]: ...
def multiply(
    A: NDArray[_Real],  # (M, K), rows contiguous
    W: NDArray[_Real],  # (K, G*H)
    init: NDArray[_Real],  # (M, G*H), C-contiguous
    gates: int,
    rows: int,
    precision: str | None = ...,
) -> tuple[str, NDArray[_Real]]: ...
