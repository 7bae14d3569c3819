"""Signals that ask a process to stop: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from .errors import TrainingInterrupted

ASKING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# Seconds in which the same request comes from several sides: a terminal that is closed sends SIGHUP
# twice, by the kernel and by the shell. Ctrl-C is pressed once for each time that it comes.
REPEATED = 1.0
Handlers: TypeAlias = dict[int, Any]
_kept: dict[int, list[int]] = {}  # of each `collecting`, the outer one first; by id


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def raising() -> Iterator[None]:
    """Within it, the first such signal raises `Stopped`, and another ends the process at once."""
    asked: list[float] = []

    def stop(number: int, _: Handlers) -> None:
        if not asked:
            asked.append(time.monotonic())
            raise Stopped(number)
        if not _is_repeated(number, asked[0]):
            _end(number, None)

    with _handling(stop):
        yield


@contextmanager
def collecting() -> Iterator[None]:
    """Within it, the first such signal is only kept, for `kept`, and another does what it does
    without. One that was kept, and of which no TrainingInterrupted tells, is sent again at the
    end."""
    own: list[int] = []
    asked: list[float] = []

    def collect(number: int, before: Handlers) -> None:
        if not own:
            own.append(number)
            asked.append(time.monotonic())
        elif not _is_repeated(number, asked[0]):
            _set(before)
            signal.raise_signal(number)

    told = False
    _kept[id(own)] = own
    try:
        with _handling(collect):
            try:
                yield
            except (TrainingInterrupted, KeyboardInterrupt):
                told = True
                raise
    finally:
        del _kept[id(own)]
        if own and not told:
            signal.raise_signal(own[0])


def kept() -> int:
    """The number of the signal that `collecting` has kept, 0 where there was none, and in other
    threads than the main one."""
    if _kept and threading.current_thread() is threading.main_thread():
        return next((own[0] for own in list(_kept.values()) if own), 0)
    return 0


def _is_repeated(number: int, first: float) -> bool:
    return number != signal.SIGINT and time.monotonic() < first + REPEATED


@contextmanager
def _handling(act: Callable[[int, Handlers], None]) -> Iterator[None]:
    """Within it, such signals call act(number, handlers before).

    An ignored signal stays ignored, as `nohup` wants SIGHUP, and a shell Ctrl-C in the background.
    Only a main thread can set handlers.
    """
    before = _handlers()
    try:
        for number in before:
            signal.signal(number, lambda number, _: act(number, before))
        yield
    finally:
        _set(before)


def _handlers() -> Handlers:
    """Those that can be replaced, by the number of the signal."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in ASKING}
    return {
        # None, which cannot be set again, where the handler is not one of Python's
        number: signal.SIG_DFL if own is None else own
        for number, own in handlers.items()
        if own is not signal.SIG_IGN
    }


def _set(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _end(number: int, _: Any) -> None:
    os._exit(128 + number)


def _is_command() -> bool:
    """Whether this process was started as `rnnfast` or `python -m rnnfast`."""
    program = (getattr(sys, "argv", None) or [""])[0]
    if program != "-m":  # which it is until the module has been found
        return Path(program).name in ("rnnfast", "rnnfast.exe")
    words = sys.orig_argv
    places = [k for k, word in enumerate(words) if word[:1] == "-" and word[1:2] != "-"]
    named = [words[k].partition("m")[2] or "".join(words[k + 1 : k + 2]) for k in places]
    return "rnnfast" in named


if _is_command():  # no traceback while it is imported, when it can do no more than end
    _set(dict.fromkeys(_handlers(), _end))
