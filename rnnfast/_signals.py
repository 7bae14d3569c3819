"""Signals that ask a process to stop: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

ASKING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


Handlers: TypeAlias = dict[int, Any]


_kept: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def raising() -> Iterator[None]:
    """Within it, the first such signal raises `Stopped`, and the next ends the process at once."""

    def stop(number: int, _: FrameType | None) -> None:
        for other in before:
            signal.signal(other, _end)
        raise Stopped(number)

    with _handling(stop) as before:
        yield


@contextmanager
def collecting() -> Iterator[None]:
    """Within it, the first such signal is only kept, for `kept`; the next does what it does
    without."""

    def collect(number: int, _: FrameType | None) -> None:
        _kept.append(number)
        _set(before)

    try:
        with _handling(collect) as before:
            yield
    finally:
        _kept.clear()


def kept() -> int:
    """The number of the signal that `collecting` has kept, 0 where there was none."""
    return _kept[0] if _kept else 0


def _end(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[Handlers]:
    """Within it, the handler of signals, unless they are ignored; what theirs was before."""
    before = _replace(handler)
    try:
        yield before
    finally:
        _set(before)


def _replace(handler: Callable[[int, FrameType | None], None]) -> Handlers:
    """Set a handler of signals, and return those of before.

    An ignored signal stays ignored, as `nohup` wants SIGHUP, and a shell Ctrl-C in the background.
    Only a main thread can set any.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in ASKING}
    before = {
        # None, which cannot be set again, where the handler is not one of Python's
        number: signal.SIG_DFL if own is None else own
        for number, own in handlers.items()
        if own is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, handler)
    return before


def _set(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _is_command() -> bool:
    """Whether this process was started as `rnnfast` or `python -m rnnfast`."""
    if sys.argv[0] != "-m":  # which it is until the module has been found
        return Path(sys.argv[0]).stem == "rnnfast"
    words = sys.orig_argv
    return "-m" in words and words[words.index("-m") + 1 :][:1] == ["rnnfast"]


if _is_command():  # no traceback while it is imported, when it can do no more than end
    _replace(_end)
