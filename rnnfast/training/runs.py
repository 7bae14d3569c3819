"""A training run as a folder: `last.npz` to resume from, `best.npz` to use, `history.csv`."""

import contextlib
import csv
import io
import math
import os
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from .._checks import as_count, as_ids
from ..archive import load_checkpoint, save_checkpoint, write_atomically
from ..errors import InputError
from ..models import Rnnlm, SimpleRnnlm
from ..text.corpora import builtin_corpus, checksum, load_text
from ..text.lanes import TEST_PART, VALID_PART, split_by_position
from ..text.sampling import generate
from ..text.vocabulary import END_OF_LINE, LEVELS, UNKNOWN, Vocabulary
from .optimizers import SGD, AdaGrad, Adam, Momentum, RMSprop
from .trainer import Record, Trainer, restore_params

MODELS = {"rnn": SimpleRnnlm, "lstm": Rnnlm}
OPTIMIZERS = {
    "sgd": SGD,
    "momentum": Momentum,
    "adagrad": AdaGrad,
    "rmsprop": RMSprop,
    "adam": Adam,
}
LEARNING_RATES = {"sgd": 1.0, "momentum": 0.1, "adagrad": 0.05, "rmsprop": 0.003, "adam": 0.003}
MAX_WORDS = 10_000
CONTEXT_BLOCKS = 4  # of training, that a model reads before it writes


@dataclass
class Settings:
    """What a run is made of. `text` is a path, or None for the built-in corpus; `lr` None is a
    learning rate that suits the optimizer; sizes are those of `models` and `Trainer`."""

    text: str | None = None
    level: str = "char"
    cell: str = "lstm"
    hidden: int = 384
    embedding: int = 64
    layers: int = 1
    batch: int = 32
    time: int = 64
    epochs: int = 12
    lr: float | None = None
    optimizer: str = "adam"
    seed: int = 0

    def __post_init__(self):
        for name, choices in (("level", LEVELS), ("cell", MODELS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        try:
            for name in ("hidden", "embedding", "layers", "batch", "time", "epochs"):
                setattr(self, name, as_count(name, getattr(self, name)))
        except ValueError as error:
            raise InputError(str(error)) from error
        if self.text is not None:
            self.text = os.fspath(self.text)
        if self.lr is None:
            self.lr = LEARNING_RATES[self.optimizer]


@dataclass
class Corpus:
    """A text, where it came from, and its ids in three parts."""

    name: str
    text: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


class Run:
    """A model with its vocabulary, settings and folder.

    Use `Run.start` and `Run.resume` to train (`trainer` and `corpus` are set then), `Run.load` to
    evaluate and to sample. Each raises InputError where text, settings or folder do not serve, and
    leaves nothing behind then.
    """

    def __init__(self, folder, settings, vocabulary, rng):
        self.folder = Path(folder)
        self.settings = settings
        self.vocabulary = vocabulary
        self.rng = rng
        try:
            self.model = MODELS[settings.cell](
                len(vocabulary),
                settings.embedding,
                settings.hidden,
                num_layers=settings.layers,
                rng=rng,
            )
        except (MemoryError, OverflowError, ValueError) as error:
            raise InputError(
                f"no model of hidden size {settings.hidden}, embedding size {settings.embedding} "
                f"and {settings.layers} layers can be made: {error}; take other sizes"
            ) from error
        self.trainer = self.corpus = None
        self.sha256 = self.context = None  # of the text; ids that are read before sampling

    @classmethod
    def start(cls, folder, settings):
        """A new run; its folder is made, and holds the untrained model from then on."""
        folder = Path(folder)
        if holds_run(folder):
            raise InputError(
                f"{folder} already holds a run; continue it with --resume, or give another --out"
            )
        name, text = read_text(settings)
        min_count = 1 if settings.level == "char" else 2
        vocabulary = Vocabulary.from_text(
            text, settings.level, max_size=MAX_WORDS, min_count=min_count
        )
        ids = vocabulary.encode(text)
        _require_enough(name, ids, vocabulary, settings)
        run = cls(folder, settings, vocabulary, np.random.default_rng(settings.seed))
        run.sha256 = checksum(text)
        run.corpus = Corpus(name, text, *split_by_position(ids))
        run.context = run._beginning_of_text()
        run._make_trainer()
        made = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run.save()
        except BaseException as error:
            _remove_half(folder, made)
            if isinstance(error, OSError):
                raise InputError(
                    f"run folder {folder} cannot be written: {error.strerror}; give another --out"
                ) from error
            raise
        return run

    @classmethod
    def resume(cls, folder, epochs=None):
        """The run of a folder as it was when it was saved last; `epochs` changes how many."""
        run, arrays, meta = cls._read(folder, "last.npz")
        if epochs is not None:
            run.settings.epochs = epochs
        run.read_corpus()
        with _damage(run.folder / "last.npz"):
            run._make_trainer()
            run.trainer.restore(arrays, meta["position"])
        return run

    @classmethod
    def load(cls, folder):
        """The run of a folder with the weights that validated best, to evaluate and to sample."""
        name = "best.npz" if (Path(folder) / "best.npz").exists() else "last.npz"
        run, arrays, _ = cls._read(folder, name)
        with _damage(run.folder / name):
            restore_params(run.model, arrays)
        return run

    @classmethod
    def _read(cls, folder, name):
        folder = Path(folder)
        if not holds_run(folder):
            raise InputError(f"{folder} holds no run; `rnnfast train --out {folder}` makes one")
        arrays, meta = load_checkpoint(folder / name)
        with _damage(folder / name):
            rng = np.random.default_rng()
            run = cls(folder, Settings(**meta["settings"]), Vocabulary(**meta["vocabulary"]), rng)
            rng.bit_generator.state = meta["random_state"]
            run.sha256 = meta["sha256"]
            context = as_ids("context", meta["context"], len(run.vocabulary), ("M",))
            run.context = context.tolist()
        return run, arrays, meta

    def read_corpus(self):
        """Set `corpus` to the text that the run was started with, if it is still the same."""
        name, text = read_text(self.settings)
        if checksum(text) != self.sha256:
            raise InputError(
                f"{name} is not the text that the run in {self.folder} was started with; "
                "put that text back, or start a new run"
            )
        self.corpus = Corpus(name, text, *split_by_position(self.vocabulary.encode(text)))

    def _make_trainer(self):
        settings = self.settings
        self.trainer = Trainer(
            self.model,
            OPTIMIZERS[settings.optimizer](settings.lr),
            self.corpus.train,
            self.corpus.valid,
            batch_size=settings.batch,
            time_size=settings.time,
        )

    def _beginning_of_text(self):
        """The first ids of the text, up to the end of a line where there is one."""
        ids = self.corpus.train[: CONTEXT_BLOCKS * self.settings.time].tolist()
        newline = self.vocabulary.id_of("\n" if self.settings.level == "char" else END_OF_LINE)
        while newline in ids and ids[-1] != newline:
            ids.pop()
        return ids

    def sample(self, length, *, prime="", temperature=1.0, rng=None):
        """Text that continues `prime`, `length` tokens long; see `generate` for the rest.

        The model first reads the beginning of its training text, since a model that was trained
        on carried states knows little of how to start from none.
        """
        vocabulary = self.vocabulary
        given = vocabulary.encode(prime)
        unknown = vocabulary.id_of(UNKNOWN) if vocabulary.level == "word" else None
        ids = generate(
            self.model,
            [*self.context, *given],
            length,
            temperature=temperature,
            skip_ids=[] if unknown is None else [unknown],
            rng=rng,
        )
        return vocabulary.decode([*given, *ids])

    def save(self, *, best=False):
        """Write `last.npz` and the history, and first `best.npz` if these weights are the best."""
        arrays, position = self.trainer.state()
        meta = {
            "settings": asdict(self.settings),
            "vocabulary": {"tokens": self.vocabulary.tokens, "level": self.vocabulary.level},
            "sha256": self.sha256,
            "context": self.context,
            "random_state": self.rng.bit_generator.state,
        }
        if best:
            weights = {name: array for name, array in arrays.items() if name.startswith("param/")}
            save_checkpoint(self.folder / "best.npz", weights, meta)
        self._save_history()
        save_checkpoint(self.folder / "last.npz", arrays, {**meta, "position": position})

    def _save_history(self):
        lines = io.StringIO()
        writer = csv.DictWriter(lines, [field.name for field in fields(Record)])
        writer.writeheader()
        writer.writerows(asdict(record) for record in self.trainer.history)
        content = lines.getvalue().encode()
        write_atomically(self.folder / "history.csv", lambda file: file.write(content))


@contextlib.contextmanager
def _damage(path):
    """Fields that are missing or of a wrong kind, told as what they are."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is no checkpoint, or is damaged: {problem}") from error


def _remove_half(folder, made):
    """Leave nothing of a run that could not be saved for the first time."""
    for name in ("last.npz", "history.csv"):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    if made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _require_enough(name, ids, vocabulary, settings):
    """Raise InputError unless all parts of a text are long enough, with the length that is."""
    if set(vocabulary.tokens) <= {UNKNOWN}:
        raise InputError(
            f"{name} has no word that occurs twice, so there is nothing to learn; "
            "take a longer text, or --level char"
        )
    block = settings.batch * settings.time
    needed = max(2 * round(1 / TEST_PART), math.ceil((block + 1) / (1 - VALID_PART - TEST_PART)))
    needed += 1  # where a part begins is rounded
    if len(ids) < needed:
        raise InputError(
            f"{name} has {len(ids):,} {vocabulary.unit}s, but {settings.batch} lanes of "
            f"{settings.time} steps need at least {needed:,}; take a longer text, or a smaller "
            "--batch or --time"
        )


def holds_run(folder):
    return (Path(folder) / "last.npz").exists()


def read_text(settings):
    """(name, text) of the text that settings ask for."""
    if settings.text is None:
        return f"pydoc_data.topics of Python {platform.python_version()}", builtin_corpus()
    return str(settings.text), load_text(settings.text)
