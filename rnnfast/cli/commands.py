"""The command `rnnfast`: train, eval, sample, bench, info, selfcheck, reproduce."""

import argparse
import io
import math
import os
import sys
from pathlib import Path

import numpy as np

from .._version import __version__
from ..bench.run import run as run_bench
from ..bench.tables import TABLES
from ..errors import InputError, TrainingDiverged, TrainingInterrupted
from ..info import build_info
from ..models import LANGUAGE_MODELS
from ..selfcheck import TOLERANCES, compare
from ..systems.reproduce import ABOUT_004, rows, table
from ..text.corpora import load_text
from ..text.lanes import unigram_entropy
from ..text.vocabulary import LEVELS
from ..threads import default_num_threads, set_num_threads
from ..training.plot import plot_history
from ..training.runs import OPTIMIZERS, Run, Settings, holds_run
from ..training.trainer import evaluate, loss_text

DEFAULT_FOLDER = "rnnfast-run"
SAMPLE_TEMPERATURE = 0.5
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(argv=None):
    """Run one command; returns its exit code. `argv` is without the program's name."""
    arguments = _parser().parse_args(argv)
    # an output that cannot show a character shows its number instead, as standard error does
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        set_num_threads(getattr(arguments, "threads", None) or default_num_threads())
        code = arguments.command(arguments)
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


def _parser():
    parser = argparse.ArgumentParser(
        prog="rnnfast",
        description="Train recurrent language models on a CPU, and use them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rnnfast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, help_text):
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.set_defaults(command=function)
        return sub

    train = command("train", _train, "Train a language model on a text.")
    # None where an option was not given: a resumed run keeps its own settings
    option = train.add_argument
    option("--text", metavar="FILE", help="UTF-8 text (default: the help texts of Python's pydoc)")
    option("--level", choices=list(LEVELS), help="what a token is (default: char)")
    option("--cell", choices=list(LANGUAGE_MODELS), help="kind of recurrent layer (default: lstm)")
    for name, meaning in (
        ("hidden", "hidden size"),
        ("embedding", "embedding size"),
        ("layers", "recurrent layers"),
        ("batch", "parallel lanes of text"),
        ("time", "time steps of a block, through which gradients flow"),
        ("epochs", "passes over the training part"),
    ):
        default = getattr(Settings, name)
        option(f"--{name}", type=_count, metavar="N", help=f"{meaning} (default: {default})")
    option("--lr", type=_above_zero, metavar="X", help="learning rate (default: by the optimizer)")
    option("--optimizer", choices=list(OPTIMIZERS), help="how weights are updated (default: adam)")
    option("--seed", type=_seed, metavar="N", help="of the random numbers (default: 0)")
    option("--threads", type=_count, metavar="N", help="CPU threads (default: all usable)")
    option("--out", metavar="DIR", help=f"run folder (default: {DEFAULT_FOLDER}, or a free number)")
    option("--resume", action="store_true", help="carry on with the run in --out")

    evaluation = command("eval", _eval, "Loss of a trained model on its own text or another.")
    evaluation.add_argument("run", metavar="RUN", help="run folder")
    evaluation.add_argument("--text", metavar="FILE", help="UTF-8 text (default: the run's own)")

    sample = command("sample", _sample, "Let a trained model write.")
    option = sample.add_argument
    option("run", metavar="RUN", help="run folder")
    option("--length", type=_length, default=500, metavar="N", help="tokens (default: 500)")
    option("--prime", metavar="TEXT", default="", help="beginning to continue (default: none)")
    careful = f"low plays safe, 0 takes the likeliest (default: {SAMPLE_TEMPERATURE})"
    option(
        "--temperature",
        type=_not_negative,
        default=SAMPLE_TEMPERATURE,
        metavar="X",
        help=careful,
    )
    option("--seed", type=_seed, metavar="N", help="for the same text again (default: random)")

    bench = command("bench", _bench, "Measure speed against PyTorch, JAX and NumPy.")
    option = bench.add_argument
    option("--quick", action="store_true", help="one minute: whether it works, not how fast it is")
    tables = ", ".join(TABLES)
    option("--table", nargs="+", choices=list(TABLES), metavar="NAME", help=f"of {tables} (all)")
    option(
        "--threads", nargs="+", type=_count, dest="counts", metavar="N", help="CPU threads (1 2)"
    )
    option("--json", metavar="FILE", help="also write the tables there")
    option("--markdown", metavar="FILE", help="also write the tables there")
    option("--plot", metavar="FILE", help="also draw the ratios by size there, as a PNG")

    command("info", _info, "What is installed and in use here.")
    command("selfcheck", _selfcheck, "Compare every compiled kernel with its NumPy twin.")
    command("reproduce", _reproduce, "Run the systems of the five notebooks, and compare.")
    return parser


def _number(convert, fits, expected):
    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse


_count = _number(int, lambda n: n >= 1, "a whole number of at least 1")
_length = _number(int, lambda n: 1 <= n <= 10**9, "a whole number from 1 to 1,000,000,000")
_seed = _number(int, lambda n: n >= 0, "a whole number of at least 0")
_above_zero = _number(float, lambda x: 0 < x < math.inf, "a finite number above 0")
_not_negative = _number(float, lambda x: 0 <= x < math.inf, "a finite number of at least 0")

SETTINGS = tuple(Settings.__dataclass_fields__)


def _train(arguments):
    given = {name: getattr(arguments, name) for name in SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.resume:
        run = _resumed(arguments, given)
    else:
        run = Run.start(arguments.out or _free_folder(), Settings(**given))
    _describe(run)
    if run.trainer.epoch >= run.settings.epochs:
        print(f"{run.trainer.epoch} epochs are done; --epochs with a larger number adds some")
    run.fit()
    best = Run.load(run.folder)
    print(f"validation, best epoch: {_loss_text(run.trainer.best_loss, run)}")
    print(f"test, same weights:     {_loss_text(_evaluate(best, run.corpus.test), run)}")
    _plot(run)
    print(f"run saved in {run.folder}: `rnnfast sample {run.folder}` writes more of this:\n")
    print(best.sample(500, temperature=SAMPLE_TEMPERATURE, rng=best.rng))
    return 0


def _free_folder():
    """rnnfast-run, or the first of rnnfast-run-2, -3 ... that holds no run."""
    number = 1
    while holds_run(folder := _numbered_folder(number)):
        number += 1
    return folder


def _numbered_folder(number):
    return Path(DEFAULT_FOLDER if number == 1 else f"{DEFAULT_FOLDER}-{number}")


def _resumed(arguments, given):
    folder = arguments.out
    if folder is None:  # the one that was started last
        number = 1
        while holds_run(_numbered_folder(number + 1)):
            number += 1
        folder = _numbered_folder(number)
    epochs = given.pop("epochs", None)
    if given:
        options = ", ".join(f"--{name}" for name in given)
        raise InputError(
            f"{options}: a resumed run keeps its settings, only --epochs and --threads may change; "
            "leave these options out, or start a new run"
        )
    return Run.resume(folder, epochs)


def _describe(run):
    corpus, settings, vocabulary = run.corpus, run.settings, run.vocabulary
    unit = vocabulary.unit
    ids = np.concatenate((corpus.train, corpus.valid, corpus.test))
    parameters = sum(W.size for W in run.model.params)
    lines = [
        f"text: {corpus.name}, {len(corpus.text):,} characters, sha256 {run.sha256}",
        f"vocabulary: {len(vocabulary):,} {unit}s; training part {len(corpus.train):,}, "
        f"validation {len(corpus.valid):,}, test {len(corpus.test):,}",
        f"without context (unigram entropy): {_loss_text(unigram_entropy(ids), run)}",
        f"model: {settings.cell}, embedding {settings.embedding}, hidden {settings.hidden}, "
        f"layers {settings.layers}: {parameters:,} parameters; {settings.optimizer}, "
        f"lr {settings.lr:g}, {settings.batch} lanes x {settings.time} steps",
        f"run folder: {run.folder}",
    ]
    print(*lines, sep="\n", flush=True)


def _plot(run):
    path = run.folder / "loss.png"
    try:
        plot_history(path, run.trainer.history, run.vocabulary.unit)
        print(f"plot: {path}")
    except ImportError:
        print("plot: none, since matplotlib is not installed (`pip install matplotlib`)")


def _eval(arguments):
    run = Run.load(arguments.run)
    if arguments.text:
        parts = {arguments.text: run.vocabulary.encode(load_text(arguments.text))}
    else:
        run.read_corpus()
        corpus = run.corpus
        parts = {
            f"{corpus.name}, validation part": corpus.valid,
            f"{corpus.name}, test part": corpus.test,
        }
    for name, ids in parts.items():
        print(f"{name}, {len(ids):,} tokens: {_loss_text(_evaluate(run, ids), run)}")
    return 0


def _evaluate(run, ids):
    """The loss of a text, read in the lanes and blocks of training: the figures stay the same."""
    settings = run.settings
    return evaluate(run.model, ids, batch_size=settings.batch, time_size=settings.time)


def _sample(arguments):
    run = Run.load(arguments.run)
    text = run.sample(
        arguments.length,
        prime=arguments.prime,
        temperature=arguments.temperature,
        rng=np.random.default_rng(arguments.seed),
    )
    print(text)
    return 0


def _bench(arguments):
    try:
        run_bench(
            arguments.table,
            quick=arguments.quick,
            threads=arguments.counts,
            json=arguments.json,
            plot=arguments.plot,
            markdown=arguments.markdown,
        )
    except ImportError as error:
        if not arguments.plot:
            raise
        raise InputError(f"--plot needs matplotlib (`pip install matplotlib`): {error}") from None
    return 0


def _info(_):
    for name, value in build_info().items():
        print(f"{name:14} {value}")
    return 0


def _selfcheck(_):
    print("largest difference from the NumPy twin, relative to the largest value\n")
    failed = False
    for dtype, tolerance in TOLERANCES.items():
        for name, difference in compare(dtype).items():
            good = difference <= tolerance
            failed |= not good
            print(f"{name:22} {dtype}  {difference:8.1e}  {'ok' if good else 'WRONG'}")
    if failed:
        raise InputError("a kernel disagrees with its twin: do not train with this build")
    return 0


def _reproduce(_):
    print(
        "The systems of five notebooks: published or reference values, and ours on the compiled\n"
        "kernels. Differences are relative, or absolute where 0 is expected.\n"
    )
    rows64, rows32 = list(rows("float64")), list(rows("float32"))
    for line in table(rows64, rows32):
        print(line)
    print(f"\n{ABOUT_004}")
    if wrong := sum(not (a.ok and b.ok) for a, b in zip(rows64, rows32, strict=True)):
        raise InputError(f"{wrong} of {len(rows64)} rows are out of tolerance")
    print(f"\nall {len(rows64)} rows are within tolerance in float64 and in float32")
    return 0


def _loss_text(loss, run):
    return loss_text(loss, run.vocabulary.unit)
