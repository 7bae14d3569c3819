"""What every kernel is made of: threads, products, scratch memory.

`engine.pyx` documents them.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from numpy import float32, float64
from numpy.typing import NDArray

from ..cells import Cell

_Real = TypeVar("_Real", float32, float64)

CPU_LEVEL: str
HAS_OPENMP: bool

class Buffer: ...
class Workspace: ...

def get_num_threads() -> int: ...
def map_function(
    name: str,
    x: NDArray[_Real],  # (M,), C-contiguous
) -> NDArray[_Real]: ...
def matmul(
    A: NDArray[_Real],  # (M, K)
    B: NDArray[_Real],  # (K, N)
) -> NDArray[_Real]: ...
def multiply(
    A: NDArray[_Real],  # (M, K), rows contiguous
    W: NDArray[_Real],  # (K, G*H)
    init: NDArray[_Real],  # (M, G*H), C-contiguous
    gates: int,
    rows: int,
) -> tuple[str, NDArray[_Real]]: ...
def numbered(
    cells: Mapping[str, Cell],
    compiled: Sequence[tuple[str, int]],  # names, numbers of gates
) -> dict[str, int]: ...
def product_of_columns(
    A: NDArray[_Real],  # (K, M), C-contiguous
    B: NDArray[_Real],  # (K, N)
    tile_rows: int,
) -> NDArray[_Real]: ...
def set_num_threads(
    n: int,
) -> None: ...
def set_serial_flops(
    flops: float,
) -> float: ...
