"""Kinds of values that options take."""

import argparse
import math
from collections.abc import Callable
from typing import Any, TypeAlias

Parse: TypeAlias = Callable[[str], Any]


def number(convert: Callable[[str], Any], fits: Callable[[Any], bool], expected: str) -> Parse:
    """What argparse takes as a type: `convert`, and an error unless the value fits."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse


count: Parse = number(int, lambda n: n >= 1, "a whole number of at least 1")
length: Parse = number(int, lambda n: 1 <= n <= 10**9, "a whole number from 1 to 1,000,000,000")
samples: Parse = number(int, lambda n: 1 <= n <= 10**5, "a whole number from 1 to 100,000")
seed: Parse = number(int, lambda n: n >= 0, "a whole number of at least 0")
above_zero: Parse = number(float, lambda x: 0 < x < math.inf, "a finite number above 0")
not_negative: Parse = number(float, lambda x: 0 <= x < math.inf, "a finite number of at least 0")
fraction: Parse = number(float, lambda x: 0 <= x < 1, "a number of at least 0 and below 1")
positive_fraction: Parse = number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1")
flag: dict[str, Any] = {"action": "store_const", "const": True}
"""Keyword arguments of an option that is True where it is given, and else None."""
