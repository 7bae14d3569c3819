"""Binary cross entropy of the sigmoid.

`rnnfast.reference.ops` documents what this function does.
"""

from typing import TypeVar

from numpy import float32, float64, int8
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def sigmoid_loss_forward(
    logits: NDArray[_Real],  # (M,), C-contiguous
    sides: NDArray[int8],  # (M,), C-contiguous
) -> tuple[float, NDArray[_Real]]: ...
