"""Recurrent layers. N batch rows, T steps, D input size, H hidden size, G gates, S states.

`rnnfast.reference.recurrent` documents what these functions do.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

from numpy import bool_, float32, float64, int64
from numpy.typing import NDArray

from ..cells import Cell
from .engine import Lent

_Real = TypeVar("_Real", float32, float64)
_Array: TypeAlias = NDArray[_Real] | Lent
_Weights: TypeAlias = Sequence[_Array[_Real]]  # Wx (D, G*H), Wh (H, G*H), b (G*H,), bh
_Optional: TypeAlias = Sequence[_Array[_Real] | None]  # the same, biases or gradients or None
_States: TypeAlias = NDArray[_Real] | Sequence[_Array[_Real] | None]  # (N, H) for each state
_Places: TypeAlias = NDArray[_Real] | Sequence[_Array[_Real]]  # the same, written
_Zoneouts: TypeAlias = Sequence[NDArray[_Real] | None] | None  # (N, T, H) for each state

class BidirectionalCache: ...
class Cache: ...
class Scratch: ...

def bidirectional_backward(
    cell: Cell,
    dhs: NDArray[_Real],  # (N, T, 2H)
    dstates: NDArray[_Real] | None,  # (2, S, N, H)
    cache: Any,
    weights: Sequence[_Weights[_Real]],  # Wx, Wh of each direction
    grads: Sequence[_Weights[_Real]],  # overwritten
    *,
    truncate: int = ...,
    need_dx: bool = ...,
) -> tuple[NDArray[_Real] | None, NDArray[_Real]]: ...
def bidirectional_forward(
    cell: Cell,
    xs: NDArray[_Real],  # (N, T, D), or (U, D) with an index
    weights: Sequence[_Weights[_Real]],  # of each direction
    states: NDArray[_Real] | None,  # (2, S, N, H)
    *,
    index: NDArray[int64] | None = ...,  # (N, T), rows of xs
    lengths: NDArray[int64] | None = ...,  # (N,)
    reset: NDArray[bool_] | None = ...,  # (N, T)
    recurrent_masks: Sequence[NDArray[_Real] | None] = ...,  # (N, H) for each direction
    zoneouts: Sequence[_Zoneouts[_Real]] = ...,
    need_gradient: bool = ...,
    cache: Any = ...,
    precision: str | None = ...,
) -> tuple[NDArray[_Real], NDArray[_Real], BidirectionalCache | None]: ...
def bidirectional_states(
    cell: Cell,
    cache: Any,
) -> NDArray[Any]: ...  # (2, S, N, T, H)
def recurrent_backward(
    cell: Cell,
    dhs: _Array[_Real] | None,  # (N, T, H), or (R, H) with batch_sizes
    dstates: _States[_Real] | None,
    cache: Any,
    weights: _Weights[_Real],  # Wx, Wh
    grads: _Optional[_Real],  # overwritten
    *,
    truncate: int = ...,
    need_dx: bool = ...,
    dxs: _Array[_Real] | None = ...,  # of the shape of xs, written
    dfirst: _Places[_Real] | None = ...,
    adds_dx: bool = ...,
    threads: int | None = ...,
) -> tuple[NDArray[_Real] | None, Any]: ...
def recurrent_forward(
    cell: Cell,
    xs: _Array[_Real],  # (N, T, D), or (U, D) with an index, or (R, D) with batch_sizes
    weights: _Optional[_Real],
    states: _States[_Real] | None,
    *,
    index: NDArray[int64] | None = ...,  # (N, T), rows of xs
    lengths: NDArray[int64] | None = ...,  # (N,)
    batch_sizes: NDArray[int64] | None = ...,  # (T,)
    reset: NDArray[bool_] | None = ...,  # (N, T)
    reverse: bool = ...,
    recurrent_mask: NDArray[_Real] | None = ...,  # (N, H)
    zoneouts: _Zoneouts[_Real] = ...,
    need_gradient: bool = ...,
    cache: Any = ...,
    copy_xs: bool = ...,
    copy_hs: bool = ...,
    out: _Array[_Real] | None = ...,  # (N, T, H), or (R, H) with batch_sizes, written
    last: _Places[_Real] | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
) -> tuple[NDArray[_Real], Any, Cache | None]: ...
def recurrent_states(
    cell: Cell,
    cache: Any,
) -> NDArray[Any]: ...  # (S, N, T, H)
