"""Dot-product attention. N batch rows, S steps of the encoder, T of the decoder, H hidden size.

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def attention_backward(
    dout: NDArray[_Real],  # (N, T, H)
    enc: NDArray[_Real],  # (N, S, H)
    dec: NDArray[_Real],  # (N, T, H)
    weights: NDArray[_Real],  # (N, T, S), C-contiguous
    lengths: NDArray[int64] | None,  # (N,), C-contiguous
) -> tuple[NDArray[_Real], NDArray[_Real]]: ...
def attention_forward(
    enc: NDArray[_Real],  # (N, S, H)
    dec: NDArray[_Real],  # (N, T, H)
    lengths: NDArray[int64] | None,  # (N,), C-contiguous
) -> tuple[NDArray[_Real], NDArray[_Real]]: ...
