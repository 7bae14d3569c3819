"""The plain recurrent layer. N batch rows, T time steps, D input size, H hidden size.

`rnnfast.reference.ops` documents what these functions do, and `_Cache` is between the two of them.
"""

from typing import TypeAlias, TypeVar

from numpy import float32, float64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)
_Cache: TypeAlias = tuple[NDArray[_Real], NDArray[_Real]]  # xs (T, N, D), hs (T+1, N, H)

def rnn_forward(
    xs: NDArray[_Real],  # (N, T, D)
    Wx: NDArray[_Real],  # (D, H)
    Wh: NDArray[_Real],  # (H, H)
    b: NDArray[_Real],  # (H,)
    h0: NDArray[_Real],  # (N, H)
) -> tuple[
    NDArray[_Real],  # hs (N, T, H)
    NDArray[_Real],  # last state (N, H)
    _Cache[_Real],
]: ...
def rnn_backward(
    dhs: NDArray[_Real],  # (N, T, H)
    dh: NDArray[_Real],  # (N, H), gradient of the last state
    cache: _Cache[_Real],
    Wx: NDArray[_Real],  # (D, H)
    Wh: NDArray[_Real],  # (H, H)
    dWx: NDArray[_Real],  # (D, H), overwritten
    dWh: NDArray[_Real],  # (H, H), overwritten
    db: NDArray[_Real],  # (H,), overwritten
    *,
    truncate: int = 0,  # steps between cuts of the gradient, 0: none
) -> tuple[
    NDArray[_Real],  # dxs (N, T, D)
    NDArray[_Real],  # gradient of h0 (N, H)
]: ...
