"""The command `rnnfast`: finds out which of its commands is meant, and runs that."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .._version import __version__
from ..errors import InputError, TrainingDiverged, TrainingInterrupted
from ..threads import default_num_threads, set_num_threads

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
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `argv` is without the program's name."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser(argv).parse_args(argv)
    # an output that cannot show a character shows its number instead, as standard error does
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        set_num_threads(getattr(arguments, "threads", None) or default_num_threads())
        code: int = arguments.command(arguments)
        if sys.stdout:
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        # what is still buffered must not raise again when Python closes standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except MemoryError as error:
        print(f"rnnfast: error: out of memory: {error}; take smaller sizes", file=sys.stderr)
        return EXIT_ERROR
    except (InputError, TrainingDiverged, OSError) as error:
        print(f"rnnfast: error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except (TrainingInterrupted, KeyboardInterrupt) as stop:
        print(f"rnnfast: {str(stop) or 'interrupted'}", file=sys.stderr)
        return EXIT_INTERRUPTED


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
            sub.set_defaults(command=module.execute)
    return parser
