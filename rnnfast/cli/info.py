"""`rnnfast info`."""

import argparse

from ..info import build_info


def execute(_: argparse.Namespace) -> int:
    for name, value in build_info().items():
        print(f"{name:14} {value}")
    return 0
