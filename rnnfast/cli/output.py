"""What is printed for somebody who may not be there any more."""

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast

from ..errors import InputError

GONE = errno.EIO, errno.EINVAL  # a terminal; on Windows a closed pipe
_lost: list[OSError] = []  # the errors of what could not be written


class _Named:
    """Standard output, whose errors say that they are its own."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._error: OSError | None = None  # raised, by a write, and maybe not seen by the caller

    def write(self, text: str) -> int:
        try:
            return self._output.write(text)
        except OSError as error:
            self._error = _named(error)
            raise self._error from error

    def flush(self) -> None:
        self._error, before = None, self._error
        if before:  # argparse goes on after an error
            raise before
        try:
            self._output.flush()
        except OSError as error:
            raise _named(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)


class _Watched:
    """Standard error, of whose errors `lost` tells, whoever goes on after them."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def write(self, text: str) -> int:
        with self._watching():
            return self._output.write(text)

    def flush(self) -> None:
        with self._watching():
            self._output.flush()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _forget(self._output, error)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)


def _named(error: OSError) -> OSError:
    return OSError(error.errno, f"standard output could not be written: {error.strerror}")


@contextmanager
def watched_output() -> Iterator[None]:
    """Within it, an error of standard output is an OSError of the same class that says so, and
    `lost` knows of those of standard error."""
    with (
        redirect_stdout(sys.stdout and cast(TextIO, _Named(sys.stdout))),
        redirect_stderr(sys.stderr and cast(TextIO, _Watched(sys.stderr))),
    ):
        yield


def say(*lines: str) -> None:
    """Print lines; where that is not possible, what else is done goes on."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError as error:
        _forget(sys.stdout, error)


def draw(name: str, path: Path, write: Callable[[Path], None]) -> None:
    """Let a picture be written, and say where it is, or why there is none: no error of that ends
    what has been trained."""
    try:
        write(path)
        seen = str(path)
    except ModuleNotFoundError as error:
        library = str(error.name).partition(".")[0]
        seen = f"none, since {library} is not installed (`pip install {library}`)"
    except InputError as error:
        seen = f"none, since {error}"
    except OSError as error:
        seen = f"none, since {path} cannot be written: {error.strerror or error}"
    except Exception as error:  # of a library, and of settings that whoever uses it has made
        seen = f"none, since matplotlib cannot draw it: {type(error).__name__}: {error}"
    say(shown(f"{name}: {seen}"))


def shown(text: str) -> str:
    """A text that may quote a file: no character of it moves the cursor or sets colours."""
    return "".join(
        mark if mark.isprintable() or mark == "\n" else ascii(mark)[1:-1] for mark in text
    )


def lost() -> str:
    """Write what is still to be written -> why something that somebody may want to read was not,
    since this was asked last; nothing where all was."""
    for output in (sys.stdout, sys.stderr):
        try:
            if output:
                output.flush()
        except OSError as error:
            _forget(output, error)
    why = str(_lost[0].__cause__ or _lost[0]) if _lost else ""
    _lost.clear()
    return why


def _forget(output: TextIO, error: OSError) -> None:
    """Let whatever is printed from now on go nowhere: not even what is still buffered may raise
    again when Python closes the output."""
    # of a closed pipe, or a terminal that is gone, nobody reads any more
    on_disk = stat.S_ISREG(os.fstat(output.fileno()).st_mode)
    if not isinstance(error, ConnectionError) and (on_disk or error.errno not in GONE):
        _lost.append(error)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output.fileno())
    os.close(nowhere)


def open_standard_files() -> None:
    """Open those of input, output and errors that are closed on nothing: else a file that is opened
    later, a checkpoint for one, would be what is written to as standard error."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
