"""Recurrent layers. N batch rows, T steps, D input size, H hidden size, G gates, S states.

`rnnfast.reference.recurrent` documents what these functions do.
"""

from typing import Any, TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

from ..cells import Cell

_Real = TypeVar("_Real", float32, float64)

class Cache: ...

def recurrent_backward(
    cell: Cell,
    dhs: NDArray[_Real],  # (N, T, H)
    dstates: NDArray[_Real] | None,  # (S, N, H)
    cache: Any,
    weights: tuple[NDArray[_Real], ...],  # Wx (D, G*H), Wh (H, G*H)
    grads: list[NDArray[_Real]],  # dWx (D, G*H), dWh (H, G*H), db (G*H,), overwritten
    *,
    truncate: int = ...,
    need_dx: bool = ...,
) -> tuple[NDArray[_Real] | None, NDArray[_Real]]: ...
def recurrent_forward(
    cell: Cell,
    xs: NDArray[_Real],  # (N, T, D), or (U, D) with an index
    weights: tuple[NDArray[_Real], ...],  # Wx (D, G*H), Wh (H, G*H), b (G*H,)
    states: NDArray[_Real] | None,  # (S, N, H)
    *,
    index: NDArray[int64] | None = ...,  # (N, T), rows of xs
    cache: Any = ...,
) -> tuple[NDArray[_Real], NDArray[_Real], Cache]: ...
