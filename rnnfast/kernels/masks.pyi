"""Random masks.

`rnnfast.reference.masks` documents what this function does.
"""

from typing import TypeVar

from numpy import float32, float64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

def draw_mask(
    key: int,
    probability: float,
    value: float,
    out: NDArray[_Real],  # (n,), C-contiguous, overwritten
    first: int = 0,
    of: int | None = None,
) -> None: ...
