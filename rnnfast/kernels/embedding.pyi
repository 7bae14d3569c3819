"""The embedding. V vocabulary size, D size of a row, (...) any shape, mostly (N, T).

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def embedding_forward(
    W: NDArray[_Real],  # (V, D)
    ids: NDArray[int64],  # (...), C-contiguous, each in 0..V-1
) -> NDArray[_Real]: ...  # (..., D)
def embedding_backward(
    dout: NDArray[_Real],  # (..., D)
    ids: NDArray[int64],  # (...), C-contiguous, each in 0..V-1
    dW: NDArray[_Real],  # (V, D), overwritten
) -> None: ...
