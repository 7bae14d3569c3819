"""`rnnfast reproduce`."""

import argparse

from ..errors import InputError
from ..systems.reproduce import ABOUT_004, rows, table


def execute(_: argparse.Namespace) -> int:
    print(
        "The systems of five notebooks: published or reference values, and ours on the compiled\n"
        "kernels. Differences are relative, or absolute where 0 is expected.\n"
    )
    rows64, rows32 = list(rows("float64")), list(rows("float32"))
    for line in table(rows64, rows32):
        print(line)
    print(f"\n{ABOUT_004}")
    if wrong := sum(not (a.ok and b.ok) for a, b in zip(rows64, rows32, strict=True)):
        raise InputError(f"{wrong} of {len(rows64)} rows are out of tolerance")
    print(f"\nall {len(rows64)} rows are within tolerance in float64 and in float32")
    return 0
