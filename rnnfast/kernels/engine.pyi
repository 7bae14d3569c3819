"""What every kernel takes from the machine and from its caller: instruction set, threads, memory.

`engine.pyx` documents them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from numpy import dtype, float32, float64
from numpy.typing import NDArray

from ..cells import Cell

_Real = TypeVar("_Real", float32, float64)

CPU_LEVEL: str
BF16: bool
HAS_OPENMP: bool

class Buffer: ...

class Lent:
    shape: tuple[int, ...]
    dtype: Any

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],  # one to three axes
        strides: tuple[int, ...],  # in numbers
        dtype: dtype[Any],
    ) -> None: ...
    def at(self, address: int) -> Lent: ...
    def __getitem__(self, k: int) -> Lent: ...
    def columns(self, start: int, stop: int) -> Lent: ...

class Workspace: ...

def get_num_threads() -> int: ...
def keep_memory(
    largest: int,  # bytes
    kept: int,
) -> bool: ...
def map_function(
    name: str,
    x: NDArray[_Real],  # (M,), C-contiguous
) -> NDArray[_Real]: ...
def numbered(
    cells: Mapping[str, Cell],
    compiled: Sequence[tuple[str, int]],  # names, numbers of gates
) -> dict[str, int]: ...
def set_exact_memory(
    exact: bool,
) -> bool: ...
def set_num_threads(
    n: int,
) -> None: ...
def set_serial_flops(
    flops: float,
) -> float: ...
