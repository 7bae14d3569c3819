"""Recurrent layers. N batch rows, T steps, D input size, H hidden size, G gates.

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import Any, TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

class Cache: ...

def lstm_backward(
    dhs: NDArray[_Real],  # (N, T, H)
    dh: NDArray[_Real],  # (N, H)
    dc: NDArray[_Real],  # (N, H)
    cache: Any,
    Wx: NDArray[_Real],  # (D, G*H)
    Wh: NDArray[_Real],  # (H, G*H)
    dWx: NDArray[_Real],  # (D, G*H), overwritten
    dWh: NDArray[_Real],  # (H, G*H), overwritten
    db: NDArray[_Real],  # (G*H,), overwritten
    *,
    truncate: int = ...,
    need_dx: bool = ...,
) -> tuple[NDArray[_Real] | None, NDArray[_Real], NDArray[_Real]]: ...
def lstm_forward(
    xs: NDArray[_Real],  # (N, T, D), or (U, D) with an index
    Wx: NDArray[_Real],  # (D, G*H)
    Wh: NDArray[_Real],  # (H, G*H)
    b: NDArray[_Real],  # (G*H,)
    h0: NDArray[_Real],  # (N, H)
    c0: NDArray[_Real],  # (N, H)
    *,
    index: NDArray[int64] | None = ...,  # (N, T), rows of xs
    cache: Any = ...,
) -> tuple[NDArray[_Real], NDArray[_Real], NDArray[_Real], Cache]: ...
def rnn_backward(
    dhs: NDArray[_Real],  # (N, T, H)
    dh: NDArray[_Real],  # (N, H)
    cache: Any,
    Wx: NDArray[_Real],  # (D, G*H)
    Wh: NDArray[_Real],  # (H, G*H)
    dWx: NDArray[_Real],  # (D, G*H), overwritten
    dWh: NDArray[_Real],  # (H, G*H), overwritten
    db: NDArray[_Real],  # (G*H,), overwritten
    *,
    truncate: int = ...,
    need_dx: bool = ...,
) -> tuple[NDArray[_Real] | None, NDArray[_Real]]: ...
def rnn_forward(
    xs: NDArray[_Real],  # (N, T, D), or (U, D) with an index
    Wx: NDArray[_Real],  # (D, G*H)
    Wh: NDArray[_Real],  # (H, G*H)
    b: NDArray[_Real],  # (G*H,)
    h0: NDArray[_Real],  # (N, H)
    *,
    index: NDArray[int64] | None = ...,  # (N, T), rows of xs
    cache: Any = ...,
) -> tuple[NDArray[_Real], NDArray[_Real], Cache]: ...
