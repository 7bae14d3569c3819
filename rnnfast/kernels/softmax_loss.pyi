"""Softmax with cross entropy. M rows of a flat (N*T) batch, V vocabulary size.

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def softmax_loss_forward(
    logits: NDArray[_Real],  # (M, V), C-contiguous
    targets: NDArray[int64],  # (M,), C-contiguous, each in 0..V-1 or ignore_label
    ignore_label: int,
) -> tuple[
    float,  # sum of the losses
    int,  # how many rows it has
    NDArray[_Real],  # probabilities (M, V)
]: ...
def softmax_loss_backward(
    probs: NDArray[_Real],  # (M, V), C-contiguous
    targets: NDArray[int64],  # (M,), C-contiguous, each in 0..V-1 or ignore_label
    ignore_label: int,
    scale: float,
) -> NDArray[_Real]: ...  # (M, V)
