"""What is printed for somebody who may not be there any more."""

import os
import sys


def say(*lines: str) -> None:
    """Print lines; where nobody can read them any more, what else is done goes on."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:  # a closed pipe, or a terminal that is gone
        forget_output()


def forget_output() -> None:
    """Let whatever is printed from now on go nowhere: not even what is still buffered may raise
    again when Python closes standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
