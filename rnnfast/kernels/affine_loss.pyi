"""Affine layer, softmax and cross entropy in one pass. M rows, D inputs, V outputs.

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import Any, TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

class LossCache: ...

def affine_loss_backward(
    cache: Any,
    scale: float,
    dW: NDArray[_Real],  # (D, V), overwritten
    db: NDArray[_Real],  # (V,), overwritten
) -> NDArray[_Real]: ...
def affine_loss_forward(
    x: NDArray[_Real],  # (M, D)
    W: NDArray[_Real],  # (D, V)
    b: NDArray[_Real],  # (V,)
    targets: NDArray[int64],  # (M,), C-contiguous
    ignore_label: int,
    *,
    need_gradient: bool = ...,
    cache: Any = ...,
    precision: str | None = ...,
) -> tuple[float, int, LossCache]: ...
