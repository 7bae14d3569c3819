"""Generation of tokens. V vocabulary size, D input size, H hidden size.

`rnnfast.reference.ops` documents what these functions do.
"""

from typing import Any, TypeVar

from numpy import float32, float64, int64
from numpy.typing import NDArray

_Real = TypeVar("_Real", float32, float64)

class Model: ...

CELLS: dict

def generate(
    embed_W: NDArray[_Real],  # (V, D)
    layers: list[tuple[Any, ...]],  # ("rnn" or "lstm", Wx, Wh, b) of each
    affine_W: NDArray[_Real],  # (H, V)
    affine_b: NDArray[_Real],  # (V,)
    states: list[tuple[NDArray[_Real], ...]],  # (h,) or (h, c) of each, (1, H)
    first: int,
    length: int,
    temperature: float,
    skip_ids: list[int],
    uniforms: NDArray[float64],  # (length,)
) -> NDArray[int64]: ...
