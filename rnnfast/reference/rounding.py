"""Products of rounded operands: bf16 (bfloat16), the upper half of the bits of a float32.

A bf16 has the sign, the eight bits of the exponent, and seven of the 23 bits of the fraction: a
number keeps its size, and loses up to 2^-8 of itself. The product of two has 16 bits, and so is
exact in float32, where it is added.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .._types import Array

Product: TypeAlias = Callable[[Array, Array], Array]
"""What stands for `a @ b`."""


def rounded(x: Array) -> Array:
    """float32 (...) -> the nearest numbers of bf16, as float32 (...).

    Of two that are equally near, the one whose last bit is 0. What is beyond the largest becomes
    infinite, infinities stay, and NaN stays NaN, a quiet one.
    """
    bits = np.asarray(x, np.float32, order="C").view(np.uint32)
    # half of the last place that stays, or a little less: where its bit is 0, a tie goes down
    nearest = bits + (0x7FFF + (bits >> 16 & 1))
    nearest = np.where(np.isnan(x), bits | 0x0040_0000, nearest) & 0xFFFF_0000
    return nearest.astype(np.uint32).view(np.float32)


def _of_rounded(a: Array, b: Array) -> Array:
    product: Array = rounded(a) @ rounded(b)
    return product


_PRODUCTS: dict[str | None, Product] = {None: np.matmul, "bfloat16": _of_rounded}


def product_in(precision: str | None) -> Product:
    """What multiplies with this precision of operands: None, as they are, or "bfloat16"."""
    if precision not in _PRODUCTS:
        raise ValueError(f"precision: expected None or 'bfloat16', got {precision!r}")
    return _PRODUCTS[precision]
