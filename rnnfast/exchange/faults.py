"""What is wrong with weights from elsewhere, told all at once."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._types import Array, Shape
from ..errors import InputError

DTYPES = ("float32", "float64")
SHOWN = 50
LONGEST = 500  # characters of one of them, which may quote what a file has
NAMES = 8  # that an array of a file has at most, in the mean


class Budget:
    """How many bytes arrays of a file may have together: as many as the file, `names` times where
    one of them may have several names, as tied weights do."""

    def __init__(self, size: int, names: int = 1) -> None:
        self._left = size * names

    def take(self, where: str, size: int) -> None:
        """Raise InputError unless as many bytes are left, before memory is taken for them."""
        self._left -= size
        if self._left < 0:
            raise InputError(
                f"{where}: expected arrays of as many bytes as the file has, got more, with "
                f"{size:,} of this one"
            )


class Faults:
    """What was found wrong so far."""

    def __init__(self, about: str) -> None:
        self.about = about
        self._found: list[str] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, fault: str) -> None:
        self._found.append(fault if len(fault) <= LONGEST else f"{fault[:LONGEST]} ...")

    def from_here(self) -> Callable[[], bool]:
        """What says whether something has been found since."""
        before = len(self)
        return lambda: len(self) > before

    def checked(self, where: str, array: Array, ndim: int) -> Array | None:
        """The array, if it is one of numbers with so many axes."""
        if array.dtype.name not in DTYPES:
            self.add(f"{where}: expected float32 or float64, got {array.dtype}; convert it")
        elif array.ndim != ndim:
            self.add(f"{where}: expected {ndim} axes, got shape {array.shape}")
        elif not array.size:  # other arrays of a layer would be as large as its shape says
            self.add(f"{where}: expected numbers, got none: its shape is {array.shape}")
        elif not np.isfinite(array).all():
            self.add(f"{where}: expected finite numbers, got NaN or infinity")
        else:
            return array.astype(array.dtype.newbyteorder("="), copy=False)
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
