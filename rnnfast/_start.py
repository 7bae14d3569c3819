"""What the command says where the rest of the package cannot even be imported: a line, as `main`
says it, which is not there yet."""

import sys
from contextlib import suppress
from types import TracebackType

from ._launch import is_command, launched
from .errors import InputError

_before = sys.excepthook


def _say(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not isinstance(error, InputError):
        _before(kind, error, traceback)
        return
    rank, processes = launched()
    where = f"rank {rank}: " if processes > 1 else ""
    if sys.stderr:
        with suppress(OSError):  # nobody may be there to read it
            print(f"rnnfast: {where}error: {error}", file=sys.stderr, flush=True)


if is_command():
    sys.excepthook = _say
