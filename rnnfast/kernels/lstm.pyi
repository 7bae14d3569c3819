"""The LSTM layer, gate columns f, g, i, o. N batch rows, T time steps, D input size, H hidden size.

`rnnfast.reference.ops` documents what these functions do, and `_Cache` is between the two of them.
"""

from typing import TypeAlias, TypeVar

from numpy import float32, float64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)
_Cache: TypeAlias = tuple[
    NDArray[_Real],  # xs (T, N, D)
    NDArray[_Real],  # hs (T+1, N, H)
    NDArray[_Real],  # cs (T+1, N, H)
    NDArray[_Real],  # tanh_cs (T, N, H)
    NDArray[_Real],  # gates (T, N, 4H)
]

def lstm_forward(
    xs: NDArray[_Real],  # (N, T, D)
    Wx: NDArray[_Real],  # (D, 4H)
    Wh: NDArray[_Real],  # (H, 4H)
    b: NDArray[_Real],  # (4H,)
    h0: NDArray[_Real],  # (N, H)
    c0: NDArray[_Real],  # (N, H)
) -> tuple[
    NDArray[_Real],  # hs (N, T, H)
    NDArray[_Real],  # last state (N, H)
    NDArray[_Real],  # last cell (N, H)
    _Cache[_Real],
]: ...
def lstm_backward(
    dhs: NDArray[_Real],  # (N, T, H)
    dh: NDArray[_Real],  # (N, H), gradient of the last state
    dc: NDArray[_Real],  # (N, H), gradient of the last cell
    cache: _Cache[_Real],
    Wx: NDArray[_Real],  # (D, 4H)
    Wh: NDArray[_Real],  # (H, 4H)
    dWx: NDArray[_Real],  # (D, 4H), overwritten
    dWh: NDArray[_Real],  # (H, 4H), overwritten
    db: NDArray[_Real],  # (4H,), overwritten
    *,
    truncate: int = 0,  # steps between cuts of the gradient, 0: none
) -> tuple[
    NDArray[_Real],  # dxs (N, T, D)
    NDArray[_Real],  # gradient of h0 (N, H)
    NDArray[_Real],  # gradient of c0 (N, H)
]: ...
