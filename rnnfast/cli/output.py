"""What is printed for somebody who may not be there any more."""

import os
import sys


def say(*lines: str) -> None:
    """Print lines; where nobody can read them any more, what else is done goes on."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:  # a closed pipe, or a terminal that is gone
        forget_output()


def shown(text: str) -> str:
    """A text that may quote a file: no character of it moves the cursor or sets colours."""
    return "".join(
        mark if mark.isprintable() or mark == "\n" else ascii(mark)[1:-1] for mark in text
    )


def forget_output() -> None:
    """Let whatever is printed from now on go nowhere: not even what is still buffered may raise
    again when Python closes standard output."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def open_standard_files() -> None:
    """Open those of input, output and errors that are closed on nothing: else a file that is opened
    later, a checkpoint for one, would be what is written to as standard error."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
