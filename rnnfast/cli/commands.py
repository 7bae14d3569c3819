"""The command `rnnfast`: finds out which of its commands is meant, and runs that."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from importlib import import_module

from .._launch import launched
from .._signals import raising
from .._version import __version__
from ..errors import InputError, RankError, TrainingDiverged, TrainingInterrupted
from ..threads import default_num_threads, set_num_threads
from .output import forget_output

# A module each, with `execute`, and `add_options` where there are some; it is imported where it is
# the one that is meant, so that nobody waits for what another command needs.
COMMANDS = {
    "train": "Train a language model on a text.",
    "eval": "Loss of a trained model on its own text or another.",
    "sample": "Let a trained model write.",
    "score": "How likely a trained model finds the lines of a text.",
    "example": "Train a model that adds numbers, or one that reads dates.",
    "bench": "Measure speed against PyTorch, JAX and NumPy.",
    "info": "What is installed and in use here.",
    "selfcheck": "Compare every compiled kernel with its NumPy twin.",
    "reproduce": "Run the systems of the five notebooks, and compare.",
}
EXIT_ERROR = 1
OF_RANKS = ("train", "info")  # commands that several processes may run at once


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `argv` is without the program's name."""
    argv = sys.argv[1:] if argv is None else argv
    rank, ranks = launched()
    with _silent() if rank else nullcontext():  # what all print is printed once
        arguments = _parser(argv).parse_args(argv)
    # an output that cannot show a character shows its number instead, as standard error does
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with raising():
            _require_one_process(arguments.called, ranks)
            set_num_threads(getattr(arguments, "threads", None) or default_num_threads())
            code: int = arguments.command(arguments)
            if sys.stdout:
                sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        forget_output()
        return EXIT_ERROR
    except MemoryError as error:
        return _ended(f"error: out of memory: {error}; take smaller sizes", rank)
    except (InputError, TrainingDiverged, RankError, OSError) as error:
        return _ended(f"error: {error}", rank)
    except TrainingInterrupted as stop:
        return _ended(str(stop), rank, 128 + (stop.signal or signal.SIGINT))
    except KeyboardInterrupt as stop:
        return _ended("interrupted", rank, 128 + getattr(stop, "number", signal.SIGINT))


@contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield


def _ended(why: str, rank: int, code: int = EXIT_ERROR) -> int:
    """Say why, once for all ranks, and return the exit code, as shells report it."""
    if rank == 0 and sys.stderr:
        with suppress(OSError):  # nobody may be there to read it
            print(f"rnnfast: {why}", file=sys.stderr, flush=True)
    return code


def _require_one_process(command: str, ranks: int) -> None:
    """Several would write into the same files, and all print the same."""
    if ranks > 1 and command not in OF_RANKS:
        raise InputError(
            f"`rnnfast {command}` is for one process, and {ranks} were started; start it without "
            "mpiexec (`mpiexec -n K rnnfast train` is what K processes do together)"
        )


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnfast",
        description="Train recurrent language models on a CPU, and use them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rnnfast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    # no option before the command takes a value
    meant = next((word for word in argv if not word.startswith("-")), None)
    for name, help_text in COMMANDS.items():
        sub = commands.add_parser(name, help=help_text, description=help_text)
        if name == meant:
            module = import_module(f".{name}", __package__)
            if hasattr(module, "add_options"):
                module.add_options(sub)
            sub.set_defaults(command=module.execute, called=name)
    return parser
