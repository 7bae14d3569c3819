"""The embedding. V vocabulary size, D size of a row, (...) any shape, mostly (N, T).

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def distinct(
    ids: NDArray[int64],  # (...), C-contiguous, each in 0..V-1
    V: int,
) -> tuple[NDArray[int64], NDArray[int64]]: ...
def embedding_backward(
    dout: NDArray[_Real],  # (..., D)
    ids: NDArray[int64],  # (...), C-contiguous, each in 0..V-1
    dW: NDArray[_Real],  # (V, D), overwritten
    filled: NDArray[int64] | None = None,  # (...), C-contiguous, each in 0..V-1
) -> None: ...
def embedding_forward(
    W: NDArray[_Real],  # (V, D)
    ids: NDArray[int64],  # (...), C-contiguous, each in 0..V-1
) -> NDArray[_Real]: ...
