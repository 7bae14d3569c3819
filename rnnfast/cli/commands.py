"""The command `rnnfast`: finds out which of its commands is meant, and runs that."""

import argparse
import io
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module

from .._launch import is_command, launched
from .._signals import ignore, raising
from .._version import __version__
from ..errors import InputError, RankError, TrainingDiverged, TrainingInterrupted
from ..threads import set_num_threads
from ..training.ranks import ONE_RANK, OneRank, world
from .output import lost, open_standard_files, shown, watched_output

# A module each, with `execute`, and `add_options` where there are some; it is imported where it is
# the one that is meant, so that nobody waits for what another command needs.
COMMANDS = {
    "train": "Train a language model on a text.",
    "eval": "Loss of a trained model on its own text or another.",
    "sample": "Let a trained model write.",
    "score": "How likely a trained model finds the lines of a text.",
    "export": "Write a trained model for another program.",
    "import": "Make a network of a file from another program.",
    "doctor": "What is in a run folder, what can be done with it, and what is wrong.",
    "example": "Train a model that adds numbers, or one that reads dates.",
    "bench": "Measure speed against PyTorch, JAX and NumPy.",
    "info": "What is installed and in use here.",
    "selfcheck": "Compare every compiled kernel with its NumPy twin.",
    "reproduce": "Run the systems of the five notebooks, and compare.",
}
EXIT_ERROR, EXIT_USAGE = 1, 2
OF_RANKS = ("train", "info")  # commands that several processes may run at once


class UsageError(InputError):
    """An error of usage on a rank that does not print what argparse does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `argv` is without the program's name."""
    code = _main(sys.argv[1:] if argv is None else argv)
    why = lost()
    if why and code == 0:
        why = f"error: not all that was printed could be written: {why}"
        code = _ended(ONE_RANK, why)
    if is_command() and launched()[1] == 1:  # several may wait for each other at their end
        ignore()
    return code


def _main(argv: Sequence[str]) -> int:
    open_standard_files()
    ranks: OneRank | None = None if _meant(argv) == "train" else ONE_RANK
    try:
        with raising():
            _require_one_process(argv)
            ranks = ranks or world()
            # of a character that cannot be shown its number is, as on standard error
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")
            with ranks.or_none(), watched_output():
                return _run(argv, ranks)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        return EXIT_ERROR
    except MemoryError as error:
        return _failed(ranks, f"out of memory: {error}; take smaller sizes")
    except UsageError as error:
        return _ended(ranks, f"error: {error}", EXIT_USAGE)
    except (InputError, TrainingDiverged, RankError, OSError) as error:
        return _failed(ranks, str(error))
    except TrainingInterrupted as stop:
        return _ended(ranks, str(stop), 128 + (stop.signal or signal.SIGINT))
    except KeyboardInterrupt as stop:
        return _ended(ranks, "interrupted", 128 + getattr(stop, "number", signal.SIGINT))
    except Exception as error:
        if ranks is None or ranks.size == 1:
            raise
        # in one piece, since others print at the same time
        print(traceback.format_exc(), file=sys.stderr, end="", flush=True)
        return _failed(ranks, f"{type(error).__name__}: {error}")


def _run(argv: Sequence[str], ranks: OneRank) -> int:
    with ranks.together():
        arguments = _parsed(argv, launched()[0])
    threads = ranks.default_num_threads()  # all ask, whatever they are told
    set_num_threads(getattr(arguments, "threads", None) or threads)
    code: int = arguments.command(arguments)
    if sys.stdout:
        sys.stdout.flush()
    return code


def _parsed(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """The arguments; errors of usage and help are printed by rank 0 alone."""
    if rank == 0:
        try:
            return _parser(argv).parse_args(argv)
        finally:  # help that cannot be written is an error
            if sys.stdout:
                sys.stdout.flush()
    with io.StringIO() as shown, redirect_stdout(shown), redirect_stderr(shown):
        try:
            return _parser(argv).parse_args(argv)
        except SystemExit as end:
            if not end.code:
                raise
            last = shown.getvalue().splitlines()[-1]
            raise UsageError(last.partition("error: ")[2]) from None


def _failed(ranks: OneRank | None, why: str) -> int:
    return _ended(ranks, f"error: {ranks.described(why) if ranks else why}")


def _ended(ranks: OneRank | None, why: str, code: int = EXIT_ERROR) -> int:
    """Say why, and return the exit code, as shells report it: once for all ranks, but for those
    that could not meet, which may have reasons of their own."""
    rank, processes = launched()
    where = f"rank {rank}: " if ranks is None and processes > 1 else ""
    if (rank == 0 or where) and sys.stderr:
        with suppress(OSError):  # nobody may be there to read it
            print(shown(f"rnnfast: {where}{why}"), file=sys.stderr, flush=True)
    if ranks:
        ranks.leave()
    return code


def _require_one_process(argv: Sequence[str]) -> None:
    """Several would write into the same files, and all print the same."""
    command, processes = _meant(argv), launched()[1]
    if processes > 1 and command in COMMANDS and command not in OF_RANKS:
        raise InputError(
            f"`rnnfast {command}` is for one process, and {processes} were started; start it "
            "without mpiexec (`mpiexec -n K rnnfast train` is what K processes do together)"
        )


def _meant(argv: Sequence[str]) -> str | None:
    """The command: no option before it takes a value."""
    return next((word for word in argv if not word.startswith("-")), None)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnfast",
        description="Train recurrent language models on a CPU, and use them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rnnfast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    meant = _meant(argv)
    for name, help_text in COMMANDS.items():
        sub = commands.add_parser(name, help=help_text, description=help_text)
        if name == meant:
            module = import_module(f".{name}", __package__)
            if hasattr(module, "add_options"):
                module.add_options(sub)
            sub.set_defaults(command=module.execute)
    return parser
