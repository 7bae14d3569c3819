"""Names for the types of arguments and results."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array: TypeAlias = NDArray[Any]
"""An array; its dtype is float32 or float64, that of the weights, unless something else is said."""
Arrays: TypeAlias = Array | Sequence[Array]
"""Arrays of one shape, on their own or along the first axis of one."""
BatchPart: TypeAlias = tuple[int, int] | None
"""(first row, rows of the whole batch) of a batch that is a part of one, None of a whole one."""
Ids: TypeAlias = NDArray[np.int64]
Precision: TypeAlias = Literal["bfloat16", "float32", "float64"]
"""What operands of products are rounded to; that of the weights is no rounding."""
Shape: TypeAlias = tuple[int, ...]
Sizes: TypeAlias = tuple[int | str, ...]
"""A shape that is expected; a string stands for any size of at least 1."""
Seed: TypeAlias = np.random.Generator | np.random.RandomState | int | None

__all__ = [
    "Array",
    "ArrayLike",
    "Arrays",
    "BatchPart",
    "DTypeLike",
    "Ids",
    "Precision",
    "Seed",
    "Shape",
    "Sizes",
]
