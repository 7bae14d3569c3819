"""How much a test tries: a few cases as a part of `pytest`, all that docs/reliability.md promises
with RNNFAST_LONG=1; others than before with RNNFAST_SEED=N."""

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("RNNFAST_LONG", "0") not in ("", "0")
SEED = int(os.environ.get("RNNFAST_SEED", "0"))


def form(short: T, long: T) -> T:
    """What there is of something in the form that runs."""
    return long if LONG else short
