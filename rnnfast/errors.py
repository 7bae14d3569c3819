"""Errors whose message is written for whoever runs a training, not for whoever calls a layer; and
how a path stands in the commands that such a message suggests."""

import os
import shlex


class InputError(ValueError):
    """A text, file, run folder or setting that cannot be used; the message says what to do."""


class TrainingDiverged(ArithmeticError):
    """The loss, its gradient or the weights are no longer finite; do not save these weights."""


class TrainingInterrupted(Exception):
    """Somebody asked to stop; the step at hand was finished and everything is saved.

    `signal` is the number of the one that asked, such as `signal.SIGTERM`, or None.
    """

    def __init__(self, message: str = "", signal: int | None = None) -> None:
        super().__init__(message)
        self.signal = signal


class RankError(RuntimeError):
    """One of the processes that train together failed, or has something that others have not."""


def as_word(path: str | os.PathLike[str]) -> str:
    """A path as a word of a command that a message suggests: none that would be an option."""
    name = os.fspath(path)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)
