"""What is wrong with weights from elsewhere, told all at once."""

from typing import Any

import numpy as np

from .._types import Array, Shape
from ..errors import InputError

DTYPES = ("float32", "float64")
SHOWN = 50


class Faults:
    """What was found wrong so far."""

    def __init__(self, about: str) -> None:
        self.about = about
        self._found: list[str] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, fault: str) -> None:
        self._found.append(fault)

    def checked(self, where: str, array: Array, ndim: int) -> Array | None:
        """The array, if it is one of numbers with so many axes."""
        if array.dtype.name not in DTYPES:
            self.add(f"{where}: expected float32 or float64, got {array.dtype}; convert it")
        elif array.ndim != ndim:
            self.add(f"{where}: expected {ndim} axes, got shape {array.shape}")
        elif not np.isfinite(array).all():
            self.add(f"{where}: expected finite numbers, got NaN or infinity")
        else:
            return array
        return None

    def require(self, where: str, array: Array, shape: Shape, dtype: np.dtype[Any]) -> bool:
        """Whether an array has this shape and dtype."""
        good = array.shape == shape and array.dtype == dtype
        if not good:
            self.add(f"{where}: expected {shape} of {dtype}, got {array.shape} of {array.dtype}")
        return good

    def raise_any(self) -> None:
        """Raise InputError where there is something."""
        if self._found:
            more = f"\n  and {len(self) - SHOWN} more" if len(self) > SHOWN else ""
            raise InputError("\n  ".join([f"{self.about}:", *self._found[:SHOWN]]) + more)
