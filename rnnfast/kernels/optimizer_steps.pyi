"""Steps of the optimizers, on flat arrays of M numbers.

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import TypeVar

from numpy import float32, float64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def adagrad_step(
    W: NDArray[_Real],  # (M,), changed in place
    dW: NDArray[_Real],  # (M,)
    h: NDArray[_Real],  # (M,), changed in place
    lr: float,
) -> None: ...
def adam_step(
    W: NDArray[_Real],  # (M,), changed in place
    dW: NDArray[_Real],  # (M,)
    m: NDArray[_Real],  # (M,), changed in place
    v: NDArray[_Real],  # (M,), changed in place
    lr: float,
    beta1: float,
    beta2: float,
) -> None: ...
def momentum_step(
    W: NDArray[_Real],  # (M,), changed in place
    dW: NDArray[_Real],  # (M,)
    v: NDArray[_Real],  # (M,), changed in place
    lr: float,
    momentum: float,
) -> None: ...
def rmsprop_step(
    W: NDArray[_Real],  # (M,), changed in place
    dW: NDArray[_Real],  # (M,)
    h: NDArray[_Real],  # (M,), changed in place
    lr: float,
    decay: float,
) -> None: ...
def scale_array(
    x: NDArray[_Real],  # (M,)
    factor: float,
) -> None: ...
def sgd_step(
    W: NDArray[_Real],  # (M,), changed in place
    dW: NDArray[_Real],  # (M,)
    lr: float,
) -> None: ...
def sum_of_squares(
    x: NDArray[_Real],  # (M,)
) -> float: ...
