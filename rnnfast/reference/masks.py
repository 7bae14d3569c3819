"""Random masks."""

import numpy as np

from .._checks import check_part
from .._types import Array


def draw_mask(
    key: int, probability: float, value: float, out: Array, first: int = 0, of: int | None = None
) -> None:
    """Fill `out`, contiguous, of n numbers, with `value`, with this probability, and 0; equal
    arguments, equal masks.

    key: 0..2^64-1. Each word of SplitMix64 (Steele, Lea and Flood 2014), started from the key,
    decides two numbers: its lower half one of the first (n+1)//2, its upper half one of the others.

    `out` is the whole mask, or numbers first..first+n-1 of that of `of` numbers.

    Raises ValueError where such a mask has no such numbers; nothing has been written then.
    """
    numbers = out.reshape(-1)
    n = len(numbers)
    whole = n if of is None else of
    check_part(first, n, whole)
    words = _splitmix64(key, (whole + 1) // 2)
    bits = np.concatenate((words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)))
    numbers[...] = np.where(bits[first : first + n] < round(probability * 2**32), value, 0)


def _splitmix64(key: int, n: int) -> Array:
    """The first n words from the state `key`, uint64; all arithmetic is modulo 2^64."""
    k = np.arange(1, n + 1, dtype=np.uint64)
    z = np.uint64(key) + k * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
