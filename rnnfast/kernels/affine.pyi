"""The affine layer. D inputs, V outputs.

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import TypeVar

from numpy import float32, float64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def affine_backward(
    dout: NDArray[_Real],  # (..., V)
    x: NDArray[_Real],  # (..., D)
    W: NDArray[_Real],  # (D, V)
    dW: NDArray[_Real],  # (D, V), overwritten
    db: NDArray[_Real],  # (V,), overwritten
    *,
    precision: str | None = ...,
) -> NDArray[_Real]: ...
def affine_forward(
    x: NDArray[_Real],  # (..., D)
    W: NDArray[_Real],  # (D, V)
    b: NDArray[_Real],  # (V,)
    *,
    precision: str | None = ...,
) -> NDArray[_Real]: ...
