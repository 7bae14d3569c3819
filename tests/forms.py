"""How much a test tries: a few cases as a part of `pytest`, all that docs/reliability.md promises
with RNNFAST_LONG=1; others than before with RNNFAST_SEED=N. Under the sanitizers (.ci/sanitize sets
RNNFAST_SANITIZED) all is slower, and memory is theirs."""

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("RNNFAST_LONG", "0") not in ("", "0")
SANITIZED = os.environ.get("RNNFAST_SANITIZED", "0") not in ("", "0")
PATIENCE = 20 if SANITIZED else 1
"""By which tests multiply the seconds after which they take a process to hang."""
SEED = int(os.environ.get("RNNFAST_SEED", "0"))


def form(short: T, long: T) -> T:
    """What there is of something in the form that runs."""
    return long if LONG else short
