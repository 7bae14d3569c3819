"""`rnnfast train`."""

import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count as count_from
from itertools import takewhile
from pathlib import Path
from typing import Any

from ..errors import InputError, TrainingInterrupted, as_word
from ..layers.initial import INITS
from ..models import LAYER_OF_CELL
from ..text.lanes import unigram_entropy
from ..text.vocabulary import LEVELS
from ..threads import get_num_threads
from ..training.folder import FolderInUse, locked
from ..training.plot import plot_history
from ..training.ranks import OneRank, world
from ..training.run_files import holds_run, is_taken, no_run
from ..training.runs import Run
from ..training.settings import DTYPES, OPTIMIZERS, SCHEDULES, Settings
from ..training.trainer import SAVE_EVERY, loss_text
from .eval import loss_of
from .options import above_zero, count, flag, fraction, not_negative, seed
from .output import draw, say
from .sample import BETWEEN, SAMPLE_TEMPERATURE

DEFAULT_FOLDER = "rnnfast-run"
SAMPLES, SAMPLE_LENGTHS = 3, {"char": 200, "word": 40}
SETTINGS = tuple(Settings.__dataclass_fields__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """None where an option was not given: a resumed run keeps its own settings."""
    option = parser.add_argument
    option("--text", metavar="FILE", help="UTF-8 text (default: the help texts of Python's pydoc)")
    option("--level", choices=list(LEVELS), help="what a token is (default: char)")
    option("--cell", choices=list(LAYER_OF_CELL), help="kind of recurrent layer (default: lstm)")
    for name, meaning in (
        ("hidden", "hidden size"),
        ("embedding", "embedding size"),
        ("layers", "recurrent layers"),
        ("batch", "parallel lanes of text"),
        ("time", "time steps of a block"),
        ("epochs", "passes over the training part"),
    ):
        default = getattr(Settings, name)
        option(f"--{name}", type=count, metavar="N", help=f"{meaning} (default: {default})")
    for name, meaning in (
        ("dropout", "of vectors and of what layers return"),
        ("weight-drop", "of recurrent weights"),
        ("zoneout", "of states"),
    ):
        default = getattr(Settings, name.replace("-", "_"))
        meaning = f"part that is left out in training, {meaning} (default: {default:g})"
        option(f"--{name}", type=fraction, metavar="P", help=meaning)
    option("--locked", **flag, help="one mask of dropout for all steps of a block")
    option("--tie-weights", **flag, help="one table for embedding and output")
    option("--dtype", choices=list(DTYPES), help=f"of all numbers (default: {Settings.dtype})")
    option(
        "--precision",
        choices=["bfloat16", *DTYPES],
        help="of the operands of products; only float32 can be rounded (default: the --dtype)",
    )
    option("--init", choices=list(INITS), help=f"initial weights (default: {Settings.init})")
    option("--optimizer", choices=list(OPTIMIZERS), help="how weights are updated (default: adam)")
    option("--lr", type=above_zero, metavar="X", help="learning rate (default: by the optimizer)")
    option(
        "--schedule",
        choices=list(SCHEDULES),
        help=f"of the learning rate (default: {Settings.schedule})",
    )
    option("--weight-decay", type=not_negative, metavar="X", help="of sgd, momentum and adamw")
    option("--max-grad", type=above_zero, metavar="X", help="norm of gradients (default: 1)")
    option("--max-value", type=above_zero, metavar="X", help="of a number of them (default: none)")
    option("--average", type=fraction, metavar="P", help="validate with averages of the weights")
    option("--window", type=count, metavar="N", help="steps that gradients flow (default: --time)")
    option("--accumulate", type=count, metavar="N", help="blocks of an update (default: 1)")
    option(
        "--patience",
        type=count,
        metavar="N",
        help=f"epochs without a better validation, to stop (default: {Settings.patience})",
    )
    option("--seed", type=seed, metavar="N", help="of the random numbers (default: 0)")
    option("--threads", type=count, metavar="N", help="CPU threads (default: all usable)")
    option("--out", metavar="DIR", help=f"run folder (default: {DEFAULT_FOLDER}, or a free number)")
    option(
        "--save-every",
        type=above_zero,
        default=SAVE_EVERY,
        metavar="MINUTES",
        help=f"of an epoch, from one checkpoint to the next (default: {SAVE_EVERY:g})",
    )
    option("--resume", action="store_true", help="carry on with the run in --out")


def execute(arguments: argparse.Namespace) -> int:
    ranks = world()
    given = {name: getattr(arguments, name) for name in SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    shared = [name for name in (*SETTINGS, "resume") if name != "text"]
    ranks.require_same({_option(name): repr(getattr(arguments, name)) for name in shared})
    with ExitStack() as stack:  # nobody else writes into the folder until the end
        with ranks.together():
            settings = None if arguments.resume else Settings(**given)
            changes = _epochs_and_text(given) if arguments.resume else {}
            folder = ranks.of_first(lambda: _take_folder(arguments, stack))
            stack.enter_context(_interrupted_in(folder, ranks))
            if settings is None:
                run = Run.resume(folder, comm=ranks, **changes)
                Run.load(folder, comm=ranks)  # as at the end: what is wrong with it is told now
            else:
                run = Run.start(folder, settings, comm=ranks)
        places = ranks.places()
        if ranks.rank == 0:
            _describe(run, places)
        run.fit(save_every=arguments.save_every)
        best = Run.load(run.folder, comm=ranks)
        test_loss = loss_of(best, run.corpus.test, ranks)
        if ranks.rank == 0:
            _say_what_came_out(run, best, test_loss)
    return 0


@contextmanager
def _interrupted_in(folder: Path, ranks: OneRank) -> Iterator[None]:
    """Within it, before `fit` and after it, an interruption names the run that there is."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if ranks.size > 1 or not holds_run(folder):
            raise
        raise TrainingInterrupted(
            f"interrupted; {folder} keeps what was saved last, "
            f"`rnnfast train --resume --out {as_word(folder)}` carries on",
            getattr(stop, "number", signal.SIGINT),
        ) from None


def _say_what_came_out(run: Run, best: Run, test_loss: float) -> None:
    unit = run.vocabulary.unit
    say(f"validation, best epoch: {loss_text(run.trainer.best_loss, unit)}")
    say(f"test, same weights:     {loss_text(test_loss, unit)}")
    write_plot = partial(plot_history, history=run.trainer.history, unit=unit)
    draw("plot", run.folder / "loss.png", write_plot)
    _show_samples(best)
    _say_what_is_next(run)


def _show_samples(run: Run) -> None:
    length = SAMPLE_LENGTHS[run.vocabulary.level]
    texts = run.samples(SAMPLES, length, temperature=SAMPLE_TEMPERATURE, rng=run.rng)
    say(f"\n{SAMPLES} samples of {length} {run.vocabulary.unit}s:")
    for text in texts:
        say(BETWEEN, text.strip())
    say(BETWEEN)


def _say_what_is_next(run: Run) -> None:
    folder, epochs = as_word(run.folder), 2 * max(run.settings.epochs, run.trainer.epoch)
    ways = {
        f"rnnfast sample {folder}": "writes more",
        f"rnnfast score {folder} FILE": "says how likely the lines of a file are",
    }
    if not run.trainer.stopped_early:
        ways[f"rnnfast train --resume --out {folder} --epochs {epochs}"] = "trains on"
    if run.settings.text is None:
        ways["rnnfast train --text FILE"] = "learns a text of yours"
    say(f"run saved in {run.folder}; next:")
    width = max(map(len, ways))
    for command, what in ways.items():
        say(f"  {command:{width}}  {what}")


def _take_folder(arguments: argparse.Namespace, stack: ExitStack) -> Path:
    """The run folder, locked until the stack is closed: that of --out, or else rnnfast-run or one
    of rnnfast-run-2, -3 ...: the last that holds a run to resume, or the first that nobody has."""
    if arguments.out:
        folder = Path(arguments.out)
    elif arguments.resume:
        runs = list(takewhile(holds_run, _numbered_folders()))
        folder = runs[-1] if runs else Path(DEFAULT_FOLDER)
    else:
        for folder in _numbered_folders():
            if not is_taken(folder):
                with suppress(FolderInUse), ExitStack() as own:
                    own.enter_context(locked(folder))
                    if not is_taken(folder):  # not even by now
                        stack.enter_context(own.pop_all())
                        return folder
    if arguments.resume and not holds_run(folder):
        raise no_run(folder)
    stack.enter_context(locked(folder))
    return folder


def _numbered_folders() -> Iterator[Path]:
    yield Path(DEFAULT_FOLDER)
    for number in count_from(2):
        yield Path(f"{DEFAULT_FOLDER}-{number}")


def _epochs_and_text(given: dict[str, Any]) -> dict[str, Any]:
    """Those of a run that is resumed; other settings must not be given."""
    kept = {name: given.pop(name, None) for name in ("epochs", "text")}
    if given:
        raise InputError(
            f"{', '.join(map(_option, given))}: a resumed run keeps its settings, only --epochs, "
            "--threads and --save-every may change, and --text say where its text is now; leave "
            "these options out, or start a new run"
        )
    return kept


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _describe(run: Run, places: Sequence[str]) -> None:
    settings, vocabulary, corpus = run.settings, run.vocabulary, run.corpus
    unit = vocabulary.unit
    parameters = sum(W.size for W in run.model.params)
    lines = [
        f"text: {corpus.name}, {corpus.characters:,} characters, sha256 {run.sha256}",
        f"vocabulary: {len(vocabulary):,} {unit}s; training part {len(corpus.train):,}, "
        f"validation {len(corpus.valid):,}, test {len(corpus.test):,}",
        f"without context (unigram entropy): {loss_text(unigram_entropy(corpus.ids), unit)}",
        f"model: {settings.cell}, embedding {settings.embedding}, hidden {settings.hidden}, "
        f"layers {settings.layers}, dropout {settings.dropout:g}: {parameters:,} parameters"
        + (f", products in {settings.precision}" if settings.precision else ""),
        f"training: {settings.optimizer}, lr {settings.lr:g}, schedule {settings.schedule}, "
        f"{settings.batch} lanes x {settings.time} steps, {settings.epochs} epochs",
        *([f"ranks: {run.ranks.size}, {_threads()} each; {'; '.join(places)}"] if places else []),
        f"run folder: {run.folder}",
    ]
    trainer = run.trainer
    if trainer.epoch >= settings.epochs:
        lines += [f"{trainer.epoch} epochs are done; --epochs with a larger number adds some"]
    elif trainer.stopped_early:
        lines += [
            f"validation has not improved for {trainer.patience} epochs: nothing is left to do; "
            "a new run with a larger --patience trains longer"
        ]
    say(*lines)


def _threads() -> str:
    count = get_num_threads()
    return f"{count} thread{'s' * (count > 1)}"
