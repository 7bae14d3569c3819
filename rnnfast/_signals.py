"""Signals that ask a process to stop: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

import os
import signal

from ._launch import is_command

if is_command():  # no traceback while the rest is imported, when it can do no more than end
    for _name in ("SIGINT", "SIGTERM", "SIGHUP"):
        _number = getattr(signal, _name, None)
        if _number is not None and signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, lambda number, _: os._exit(128 + number))

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    end; another error comes out all the same."""
    own: list[int] = []
    asked: list[float] = []

    def collect(number: int, before: Handlers) -> None:
        if not own:
            own.append(number)
            asked.append(time.monotonic())
        elif not _is_repeated(number, asked[0]):
            _set(before)
            signal.raise_signal(number)

    error: BaseException | None = None
    _kept[id(own)] = own
    try:
        with _handling(collect):
            try:
                yield
            except BaseException as raised:
                error = raised
                raise
    finally:
        del _kept[id(own)]
        if own and not isinstance(error, TrainingInterrupted | KeyboardInterrupt):
            try:
                signal.raise_signal(own[0])
            except KeyboardInterrupt:
                if error is None:
                    raise
                # it ends the program, too, and says more
                error.add_note(f"{signal.Signals(own[0]).name} came at the same time")


def ignore() -> None:
    """Let no such signal do anything from now on: what was asked for is done."""
    _set(dict.fromkeys(_handlers(), signal.SIG_IGN))


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
