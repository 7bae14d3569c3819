"""`rnnfast selfcheck`."""

import argparse

from ..errors import InputError
from ..selfcheck import TOLERANCES, compare


def execute(_: argparse.Namespace) -> int:
    print("largest difference from the NumPy twin, relative to the largest value\n")
    failed = False
    for dtype, tolerance in TOLERANCES.items():
        for name, difference in compare(dtype).items():
            good = difference <= tolerance
            failed |= not good
            print(f"{name:22} {dtype}  {difference:8.1e}  {'ok' if good else 'WRONG'}")
    if failed:
        raise InputError("a kernel disagrees with its twin: do not train with this build")
    return 0
