"""A training run as a folder: `last.npz` to resume from, `best.npz` to use, `history.csv`."""

import contextlib
import csv
import io
import math
import os
import platform
import shlex
import signal
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from .._checks import as_above_zero, as_ids
from .._files import open_regular
from .._signals import collecting, kept
from .._types import Array, Ids, Seed
from .._version import __version__
from ..archive import damage, load_archive, naming, remove_leftovers, save_archive, write_atomically
from ..errors import InputError, TrainingDiverged, TrainingInterrupted
from ..models.language_models import LAYER_OF_CELL, LanguageModel, param_shapes
from ..text.corpora import Text, builtin_corpus
from ..text.lanes import PADDING, TEST_PART, VALID_PART, split_by_position
from ..text.pieces import Digest, NotText, gather
from ..text.sampling import stream
from ..text.scoring import log_probabilities
from ..text.vocabulary import END_OF_LINE, UNKNOWN, UnknownToken, Vocabulary, count_tokens
from . import checkpoint
from .fields import require_meta
from .folder import cannot_be_written, locked
from .progress import Progress
from .ranks import ONE_RANK, OneRank, as_ranks
from .settings import BEFORE, Settings
from .trainer import SAVE_EVERY, Callback, OnEpoch, OnStep, Record, Stop, StoppedByAll, Trainer

FILES = ("last.npz", "best.npz", "history.csv")
MAX_WORDS = 10_000
END_OF_ARCHIVE = 1 << 16  # bytes
CONTEXT_BLOCKS = 4  # of training, that a model reads before it writes
SCORED_TOKENS = 4096  # of lines that are scored at once


@dataclass
class Corpus:
    """Where a text came from, how long it is, and its ids (M,): all, and in three parts.

    They are of the smallest unsigned dtype that holds them; those of a large text are read-only,
    and in a file.
    """

    name: str
    characters: int
    ids: Array
    train: Array = field(init=False)
    valid: Array = field(init=False)
    test: Array = field(init=False)

    def __post_init__(self) -> None:
        self.train, self.valid, self.test = split_by_position(self.ids)


class Run:
    """A model with its vocabulary, settings and folder.

    `Run.start` and `Run.resume` give a run to train, with `fit`, that has a `trainer` and a
    `corpus`. `Run.load` gives one to evaluate and to sample. Each raises InputError where text,
    settings or folder do not serve, and leaves nothing behind then.

    With a communicator of mpi4py as `comm`, several processes train one run; all must call the same
    methods. Each reads the text, which must be the same. Rank 0 alone reads and writes the folder.

    Examples
    --------
    >>> import pathlib, rnnfast, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = pathlib.Path(folder, "text.txt")
    ...     _ = text.write_text("the cat saw the dog. " * 40)
    ...     settings = rnnfast.Settings(text, hidden=8, batch=4, time=10, epochs=2)
    ...     run = rnnfast.Run.start(pathlib.Path(folder, "run"), settings)
    ...     run.fit(verbose=False)
    ...     again = rnnfast.Run.load(run.folder)
    >>> run.trainer.epoch, len(again.sample(20, prime="the c"))
    (2, 25)
    """

    folder: Path
    ranks: OneRank
    settings: Settings
    vocabulary: Vocabulary
    rng: np.random.Generator
    model: LanguageModel
    sha256: str  # of the text
    text_bytes: int | None  # of its file; None where it is in none, or this was not kept
    context: list[int]  # ids that are read before sampling

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Settings,
        vocabulary: Vocabulary,
        rng: np.random.Generator,
        ranks: OneRank = ONE_RANK,
        model: LanguageModel | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._place = self.folder.absolute()  # whatever a callback does to the working folder
        self.ranks = ranks
        self.settings = settings
        self.vocabulary = vocabulary
        self.rng = rng
        self.model = _new_model(settings, len(vocabulary), rng) if model is None else model
        self._trainer: Trainer | None = None
        self._corpus: Corpus | None = None
        self.sha256, self.text_bytes = "", None
        self.context = []
        self._lines: int | None = None  # of the history that this run has put into history.csv
        self._seen: tuple[int, ...] = ()  # which last.npz this run was read from, or has written

    @property
    def trainer(self) -> Trainer:
        """What trains the model; RuntimeError in a run that `Run.load` returned."""
        if self._trainer is None:
            raise RuntimeError(
                "Run.trainer: expected a run that Run.start or Run.resume returned, got one to "
                f"sample from; Run.resume({str(self.folder)!r}) carries on where it was saved last"
            )
        return self._trainer

    @property
    def corpus(self) -> Corpus:
        """The text; RuntimeError in a run that `Run.load` returned, before `read_corpus`."""
        if self._corpus is None:
            raise RuntimeError(
                "Run.corpus: expected a run that Run.start or Run.resume returned, got one to "
                "sample from; read_corpus() reads the text"
            )
        return self._corpus

    @classmethod
    def start(
        cls,
        folder: str | os.PathLike[str],
        settings: Settings,
        *,
        verbose: bool = True,
        comm: Any = None,
    ) -> Self:
        """A new run; its folder is made, and holds the untrained model from then on.

        With `verbose`, standard error shows how far a long text was read.
        """
        folder, ranks = Path(folder), as_ranks(comm)
        with _only_writer(folder, ranks):
            ranks.of_first(lambda: _require_no_run(folder))
            return cls._start(folder, settings, verbose, ranks)

    @classmethod
    def _start(cls, folder: Path, settings: Settings, verbose: bool, ranks: OneRank) -> Self:
        with ranks.together():
            # a copy, checked again; the text is found from any folder later
            text_path = None if settings.text is None else Path(settings.text).absolute()
            settings = replace(settings, text=text_path)
            text = read_text(settings)
            vocabulary, sha256 = _count(text, settings, verbose and ranks.rank == 0)
        ranks.require_same(_names_of(settings, sha256))
        with ranks.together():
            rng = np.random.default_rng(settings.seed)
            run = cls(folder, settings, vocabulary, rng, ranks)
            run.sha256 = sha256
            run._encode(text, verbose)
            run.context = run._beginning_of_text(run.corpus.train)
            run._trainer = run._new_trainer()
        try:
            run.save()
        except BaseException as error:
            if ranks.rank == 0:
                _remove_half(run._place)
            if isinstance(error, OSError):
                raise cannot_be_written(folder, error) from error
            raise
        return run

    @classmethod
    def resume(
        cls,
        folder: str | os.PathLike[str],
        epochs: int | None = None,
        *,
        text: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        comm: Any = None,
    ) -> Self:
        """The run of a folder as it was when it was saved last; `epochs` changes how many.

        `text` and `verbose` are as in `read_corpus`. There may be more ranks than before, or fewer.
        """
        ranks = as_ranks(comm)
        with ranks.together():
            seen = ranks.of_first(lambda: _identity(Path(folder)))
            run, arrays, meta = cls._read(folder, ("last.npz",), ranks)
            run._seen = seen
            if epochs is not None:
                run.settings = replace(run.settings, epochs=epochs)
            run.read_corpus(text=text, verbose=verbose)
            with damage(run.folder / "last.npz", "checkpoint"):
                run._trainer = run._new_trainer()
                run.trainer.restore(arrays, meta["position"])
        return run

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, comm: Any = None) -> Self:
        """The run of a folder with the weights that validated best, to evaluate and to sample."""
        ranks = as_ranks(comm)
        with ranks.together():
            run, _, _ = cls._read(folder, ("best.npz", "last.npz"), ranks)
        return run

    @classmethod
    def _read(
        cls, folder: str | os.PathLike[str], names: Sequence[str], ranks: OneRank
    ) -> tuple[Self, dict[str, Array], dict[str, Any]]:
        """The run with the weights of a file in its folder, the first that is there of these, and
        all that is in the file."""
        folder = Path(folder)
        name, (version, arrays, meta) = ranks.of_first(lambda: _read_first(folder, names))
        with damage(folder / name, "checkpoint"):
            resumable = name == "last.npz"
            require_meta(version, meta, resumable=resumable)
            settings = Settings(**(BEFORE | meta["settings"]))
            vocabulary = Vocabulary(**meta["vocabulary"])
            if settings.layers > len(arrays):
                raise InputError(
                    f"layers: expected one or more with weights, got {settings.layers}"
                )
            shapes = param_shapes(
                LAYER_OF_CELL[settings.cell].cell,
                len(vocabulary),
                settings.embedding,
                settings.hidden,
                settings.layers,
                settings.tie_weights,
            )
            optimizer = settings.new_optimizer()
            if version == 1:
                recurrent = [f"recurrent.{k}" for k in range(settings.layers)]
                arrays = checkpoint.named(arrays, list(shapes), recurrent, optimizer.slots)
                carried = [array for array in arrays if array.startswith("carried/")]
                if resumable:
                    meta["position"] |= {"carried": carried, "random_state": {}}
            # before there is a model of these sizes, which has these arrays for its weights
            params = checkpoint.params_of(arrays, shapes, settings.dtype)
            config = _config_of_new(settings) | meta.get("model", {})
            model = LanguageModel.from_params(params, **config)
            _require_known_arrays(model, optimizer, arrays, meta.get("position"), settings.batch)
            if resumable:
                model.set_random_state(meta["position"]["random_state"])
            rng = np.random.default_rng()
            rng.bit_generator.state = meta["random_state"]
            run = cls(folder, settings, vocabulary, rng, ranks, model)
            run.sha256, run.text_bytes = meta["sha256"], meta.get("text_bytes")
            context = as_ids("context", meta["context"], len(run.vocabulary), ("M",))
            run.context = context.tolist()
        return run, arrays, meta

    def read_corpus(
        self, *, text: str | os.PathLike[str] | None = None, verbose: bool = True
    ) -> Corpus:
        """Set `corpus` to the text that the run was started with, if it is still the same.

        `text` is the path of its file, where that has another than it had then. The path that the
        checkpoint has is followed to a regular file on this machine alone, of the size that the
        text had, and no error shows what is in it. `verbose` is as in `start`.
        """
        if text is not None:
            self.settings = replace(self.settings, text=Path(text).absolute())
            return self._encode(read_text(self.settings), verbose)
        return self._encode(self._text_of_checkpoint(), verbose)

    def _text_of_checkpoint(self) -> Text:
        """The text whose path is in the checkpoint, which anybody may have written."""
        path = self.settings.text
        if path is None:
            return read_text(self.settings)
        # a system may tell another machine who its user is, before that one says what is there
        if str(path).replace("\\", "/").startswith("//"):
            raise InputError(
                f"{path}, which the run in {self.folder} was started with, is on another machine; "
                "name the text yourself (--text with --resume, or text=)"
            )
        try:
            open_regular(path, "text file").close()
        except InputError as error:
            where = "say where it is (--text with --resume)"
            raise InputError(f"the text of the run in {self.folder}: {error}, or {where}") from None
        text = read_text(self.settings)
        if self.text_bytes not in (None, text.size):
            raise self._other_text(text)
        return text

    def _other_text(self, text: Text) -> InputError:
        return InputError(
            f"{text.name} is not the text that the run in {self.folder} was started with; "
            "put that text back, say where it is (--text with --resume), or start a new run"
        )

    def _encode(self, text: Text, verbose: bool) -> Corpus:
        """Set `corpus` to a text whose checksum is known from before."""
        digest = Digest()
        pieces = digest.of(_pieces(text, verbose and self.ranks.rank == 0))
        try:
            ids = gather(self.vocabulary.encode_pieces(pieces), _on_disk_of(self.folder))
            same = digest.sha256 == self.sha256
        except (UnknownToken, NotText):
            same = False
        if not same:
            raise self._other_text(text)
        self._corpus = Corpus(text.name, digest.characters, ids)
        self.text_bytes = None if self.settings.text is None else text.size
        return self._corpus

    def _new_trainer(self) -> Trainer:
        settings, corpus = self.settings, self.corpus
        return Trainer(
            self.model,
            settings.new_optimizer(),
            corpus.train,
            corpus.valid,
            unit=self.vocabulary.unit,
            comm=self.ranks,
            **settings.of_trainer,
        )

    def fit(
        self,
        epochs: int | None = None,
        *,
        verbose: bool = True,
        on_step: OnStep | None = None,
        on_epoch: OnEpoch | None = None,
        callbacks: Iterable[Callback] = (),
        stop: Stop | None = None,
        save_every: float = SAVE_EVERY,
    ) -> None:
        """Train until `epochs` epochs are done in all, or validation has not improved for
        `settings.patience` of them, and save after every one, and every few minutes.

        `last.npz`, `history.csv` and, where validation improved, `best.npz` are written after every
        epoch; `last.npz` and `history.csv` after `save_every` minutes of a longer epoch, and where
        training is stopped. So `Run.load` and `Run.resume` find what was trained. (`trainer.fit`
        writes nothing.) Nobody else can train the run in the meantime.

        In the main thread, Ctrl-C finishes the step at hand, saves, and stops; so do SIGTERM and
        SIGHUP, unless they are ignored. The second of them does what it does elsewhere: it stops at
        once, and the folder keeps what was saved last.

        Parameters
        ----------
        epochs : int or None
            In all, those done before included; None is `settings.epochs`, which a larger number
            replaces. Where as many are done, nothing happens. A cosine is as long as
            `settings.epochs`, and so the same for calls that do some of them each.
        verbose, on_step, on_epoch, callbacks, stop : keyword-only, as in `Trainer.fit`
            Callbacks are called after the epoch was saved. What they raise comes out of `fit`; the
            folder keeps what was saved last, and calling `fit` again carries on.
        save_every : float
            Minutes from one save to the next, at most, but for the step at hand.

        Raises
        ------
        TrainingInterrupted
            After Ctrl-C, SIGTERM or SIGHUP, or where stop() said so.
        TrainingDiverged
            As in `Trainer.fit`; the folder keeps what was saved last.
        InputError, RuntimeError
            Where `epochs` is no count; where the folder is in use by another process, or holds what
            another one has trained since; where this run comes from `Run.load`.
        """
        trainer = self.trainer
        with self.ranks.together():
            save_every = as_above_zero("save_every", save_every)
            epochs = self.settings.epochs if epochs is None else epochs
            settings = replace(self.settings, epochs=epochs)
        self.ranks.require_same({"number of epochs": str(settings.epochs)})
        if settings.epochs <= trainer.epoch:
            return

        def save_epoch(record: Record, improved: bool) -> None:
            self.save(best=improved)
            if on_epoch:
                on_epoch(record, improved)

        try:
            with _only_writer(self._place, self.ranks), collecting():
                self.ranks.of_first(self._require_newest)
                if settings.epochs > self.settings.epochs:
                    if trainer.schedule == self.settings.new_schedule():  # nobody has set another
                        trainer.schedule = settings.new_schedule()
                    self.settings = settings
                try:
                    trainer.fit(
                        settings.epochs,
                        verbose=verbose,
                        on_step=on_step,
                        on_epoch=save_epoch,
                        callbacks=callbacks,
                        stop=stop,
                        save=partial(self._save_if_possible, verbose),
                        save_every=save_every,
                    )
                    if self.ranks.any(bool(kept())):  # while the last epoch was saved
                        raise StoppedByAll
                except TrainingInterrupted as stopped:
                    if self.ranks.size > 1 and not isinstance(stopped, StoppedByAll):
                        raise  # of a callback: the others have ended with an error
                    self.save()
                    out = shlex.quote(str(self.folder))
                    raise TrainingInterrupted(
                        f"stopped after step {trainer.step} and saved; "
                        f"`rnnfast train --resume --out {out}` carries on",
                        kept() or None,
                    ) from None
        except KeyboardInterrupt as stopped:  # the second of them
            raise TrainingInterrupted(
                f"interrupted; {self.folder} keeps what was saved last",
                getattr(stopped, "number", signal.SIGINT),
            ) from None
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error}; {self.folder} keeps what was saved last") from None

    def _beginning_of_text(self, train_ids: Array) -> list[int]:
        """The first ids of the text, up to the end of a line where there is one."""
        ids: list[int] = train_ids[: CONTEXT_BLOCKS * self.settings.time].tolist()
        newline = self._newline()
        while newline in ids and ids[-1] != newline:
            ids.pop()
        return ids

    def _newline(self) -> int | None:
        """The id of the end of a line, where there is one."""
        return self.vocabulary.id_of("\n" if self.vocabulary.level == "char" else END_OF_LINE)

    def stream(
        self,
        length: int,
        *,
        prime: str = "",
        stop: str = "",
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        samples: int = 1,
        rng: Seed = None,
    ) -> Iterator[list[str]]:
        """Texts that continue `prime`, as they come: again and again what is new in each of them.

        The model first reads the beginning of its training text, since a model that was trained
        on carried states knows little of how to start from none. `<unk>` is never written.

        Parameters
        ----------
        length : int
            Tokens of each text, `prime` not counted, at most.
        prime : str, keyword-only (like all that follow)
            The texts begin with it.
        stop : str
            A text ends after any of its characters; with words, after any of its words or, where it
            has a newline, after a line.
        temperature, top_k, top_p, rng : as in `generate`
        samples : int
            How many texts; they come side by side, in one batch.

        Raises
        ------
        InputError
            Where the vocabulary does not have what is in `prime` or `stop`; where the model's
            logits are not finite numbers.
        TypeError, ValueError
            As in `generate`.
        """
        vocabulary = self.vocabulary
        try:
            name = "prime"
            given = vocabulary.encode(prime)
            name = "stop"
            stops = vocabulary.encode(stop)
        except UnknownToken as error:
            raise InputError(f"{name}: {error}") from None
        unknown = [vocabulary.id_of(UNKNOWN)] if vocabulary.level == "word" else []
        skipped = [k for k in unknown if k is not None]
        if np.isin(skipped, stops).any():
            raise InputError(f"stop: expected words of the vocabulary, got {stop!r}; take others")
        columns = stream(
            self.model,
            [*self.context, *given],
            length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            skip_ids=skipped,
            stop_ids=stops,
            samples=samples,
            rng=rng,
        )
        return _texts(vocabulary, given, columns, samples)

    def samples(self, count: int, length: int, **options: Any) -> list[str]:
        """`count` texts, whole; `length` and the options are those of `stream`."""
        parts = self.stream(length, samples=count, **options)
        return ["".join(pieces) for pieces in zip(*parts, strict=True)]

    def sample(self, length: int, **options: Any) -> str:
        """A text, whole; `length` and the options are those of `stream`, but for `samples`."""
        return self.samples(1, length, **options)[0]

    def score(self, lines: Sequence[str]) -> Iterator[tuple[Ids, Array]]:
        """How likely the model finds lines: for each its ids and their log probabilities in nats,
        (M,), float64.

        Every line is scored on its own, as what follows the beginning of the training text, which
        `stream` lets the model read too. The newline at its end counts as one of its tokens, where
        the vocabulary has one; so does `<unk>`, for any word that the vocabulary does not have.

        Raises InputError for a line with characters that the vocabulary does not have, before
        anything is computed; its number is in the message.
        """
        end = [] if (newline := self._newline()) is None else [newline]
        encoded = []
        for k, line in enumerate(lines):
            try:
                encoded.append(np.append(self.vocabulary.encode(line), end).astype(np.int64))
            except InputError as error:
                raise InputError(f"line {k + 1}: {error}") from None
        return self._scored(encoded)

    def _scored(self, lines: list[Ids]) -> Iterator[tuple[Ids, Array]]:
        """What `score` returns, of ids."""
        for batch in _batches(lines):
            ids = np.full((len(batch), max(1, *map(len, batch))), PADDING)
            for row, line in zip(ids, batch, strict=True):
                row[: len(line)] = line
            scores = log_probabilities(self.model, self.context, ids)
            for line, log_p in zip(batch, scores, strict=True):
                yield line, log_p[: len(line)]

    def save(self, *, best: bool = False) -> None:
        """Write `last.npz` and the history, and first `best.npz` if these weights are the best.

        The folder is made where there is none. All ranks must call this, and the first writes.
        """
        arrays, position = self.trainer.state()
        with _only_writer(self._place, self.ranks):
            self.ranks.of_first(lambda: self._write(arrays, position, best))

    def _save_if_possible(self, verbose: bool) -> None:
        """Save within an epoch: a disk that is full for now is no reason to stop."""
        try:
            self.save()
        except OSError as error:
            if self.ranks.size > 1:  # the others have an error, too
                raise
            if verbose and sys.stderr:
                print(f"rnnfast: not saved: {error}; training goes on", file=sys.stderr)

    def _require_newest(self) -> None:
        if _identity(self._place) not in ((), self._seen):
            raise InputError(
                f"{self.folder}: expected last.npz as this run has read or written it, got that of "
                "another one that was trained since; Run.resume carries on from there"
            )

    def _write(self, arrays: dict[str, Array], position: dict[str, Any], best: bool) -> None:
        self._place.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        self._require_newest()
        meta = {
            "settings": asdict(self.settings),
            "vocabulary": {"tokens": self.vocabulary.tokens, "level": self.vocabulary.level},
            "sha256": self.sha256,
            "text_bytes": self.text_bytes,
            "context": self.context,
            "model": self.model.config(),
            "random_state": self.rng.bit_generator.state,
        }
        is_new = not holds_run(self._place)
        for name in FILES:  # else what a kill has left of one that is seldom written stays
            remove_leftovers(self._place / name)
        if is_new:  # nothing else is a run, nor may it be in the way of one
            self._write_last(arrays, meta | {"position": position})
        if best:
            validated = self.trainer.validated_params()
            weights = {f"param/{name}": W for name, W in validated.items()}
            save_archive(self._place / "best.npz", "checkpoint", weights, meta)
        self._save_history(self.trainer.history)
        if not is_new:  # the others are made again from the one before
            self._write_last(arrays, meta | {"position": position})

    def _write_last(self, arrays: dict[str, Array], meta: dict[str, Any]) -> None:
        try:
            save_archive(self._place / "last.npz", "checkpoint", arrays, meta)
        finally:  # after Ctrl-C, too
            self._seen = _identity(self._place)

    def _save_history(self, history: list[Record]) -> None:
        """Append what is new; the first time, the file is made that of this history."""
        path, written = self._place / "history.csv", self._lines
        self._lines = None  # after an error, all of it is written again
        if written is not None and path.exists():
            with naming(path), open(path, "ab") as file:
                file.write(_as_csv(history[written:]))
                file.flush()
                os.fsync(file.fileno())
        else:
            content = _as_csv(history, header=True)
            write_atomically(path, lambda file: file.write(content))
        self._lines = len(history)


def _as_csv(history: Sequence[Record], *, header: bool = False) -> bytes:
    lines = io.StringIO()
    writer = csv.DictWriter(lines, [field.name for field in fields(Record)])
    if header:
        writer.writeheader()
    writer.writerows(asdict(record) for record in history)
    return lines.getvalue().encode()


def _new_model(settings: Settings, vocab_size: int, rng: np.random.Generator) -> LanguageModel:
    try:
        return LanguageModel(vocab_size, rng=rng, **settings.of_model)
    except (MemoryError, OverflowError, ValueError) as error:
        raise InputError(
            f"no model of hidden size {settings.hidden}, embedding size {settings.embedding} "
            f"and {settings.layers} layers can be made: {error}; take other sizes"
        ) from error


def _config_of_new(settings: Settings) -> dict[str, Any]:
    """What `config` of a new model returns, whose weights need not be made for that."""
    small = {"hidden": 1, "embedding": 1, "layers": 1}
    config = LanguageModel(1, rng=0, **(settings.of_model | small)).config()
    config["recurrent"] *= settings.layers
    config["dropout"] = config["dropout"][:1] * (settings.layers + 1)
    return config


def _require_known_arrays(
    model: LanguageModel, optimizer: Any, arrays: dict[str, Array], position: Any, rows: int
) -> None:
    """Raise InputError unless a checkpoint has the arrays that `Trainer.state` returns, with a
    position, or else the parameters alone."""
    if position is None:
        steps, carried, earlier = 0, [], 0
    else:
        arrays, _ = checkpoint.taken_out(("average", "best"), arrays, model)
        steps, carried = position["optimizer_steps"], position["carried"]
        earlier = position.get("earlier", 0)
    checkpoint.require_state(
        model, optimizer, arrays, steps=steps, carried=carried, earlier=earlier, rows=rows
    )


def _texts(
    vocabulary: Vocabulary, given: Ids, columns: Iterator[Ids], rows: int
) -> Iterator[list[str]]:
    """What each of some texts begins with, and what columns (rows, 1) of ids add to it."""
    yield [vocabulary.decode(given)] * rows
    before = [given[-1] if len(given) else None] * rows
    for column in columns:
        ids = column[:, 0].tolist()
        # a text that has ended gets padding only from then on
        pieces = zip(ids, before, strict=True)
        yield ["" if k == PADDING else vocabulary.piece(k, last) for k, last in pieces]
        before = ids


def _batches(lines: list[Ids]) -> Iterator[list[Ids]]:
    """The lines, some at a time: up to `SCORED_TOKENS`, padding counted, where they are several."""
    batch: list[Ids] = []
    for line in lines:
        if (len(batch) + 1) * max(map(len, [line, *batch])) > SCORED_TOKENS and batch:
            yield batch
            batch = []
        batch.append(line)
    if batch:
        yield batch


@contextlib.contextmanager
def _only_writer(folder: Path, ranks: OneRank) -> Iterator[None]:
    """Within it, nobody else writes into a run folder; rank 0 has its lock for all."""
    with contextlib.ExitStack() as stack:
        ranks.of_first(lambda: stack.enter_context(locked(folder)))
        yield


def _remove_half(folder: Path) -> None:
    """Leave nothing of a run that could not be saved for the first time."""
    for name in ("history.csv", "last.npz"):  # without the last it is no run that can be resumed
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def _count(text: Text, settings: Settings, verbose: bool) -> tuple[Vocabulary, str]:
    """The vocabulary of a text from which something can be learnt, and its checksum."""
    digest = Digest()
    counts = count_tokens(digest.of(_pieces(text, verbose)), settings.level)
    min_count = 1 if settings.level == "char" else 2
    vocabulary = Vocabulary.from_counts(
        counts, settings.level, max_size=MAX_WORDS, min_count=min_count
    )
    _require_enough(text.name, sum(counts.values()), vocabulary, settings)
    return vocabulary, digest.sha256


def _pieces(text: Text, verbose: bool) -> Iterator[str]:
    """A text in pieces; if it is long, how far it was read is shown."""
    with Progress(text.size, verbose=verbose, read=Path(text.name).name) as progress:
        yield from text.pieces(progress.advance)


def _on_disk_of(folder: Path) -> Path | None:
    """A folder on the disk of one that may not be there yet: the system's own for temporary files,
    which None is, may be in memory. None where nothing can be written."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None


def _require_enough(name: str, length: int, vocabulary: Vocabulary, settings: Settings) -> None:
    """Raise InputError unless all parts of a text are long enough, with the length that is."""
    if set(vocabulary.tokens) <= {UNKNOWN}:
        raise InputError(
            f"{name} has no word that occurs twice, so there is nothing to learn; "
            "take a longer text, or --level char"
        )
    block = settings.batch * settings.time
    needed = max(2 * round(1 / TEST_PART), math.ceil((block + 1) / (1 - VALID_PART - TEST_PART)))
    needed += 1  # where a part begins is rounded
    if length < needed:
        raise InputError(
            f"{name} has {length:,} {vocabulary.unit}s, but {settings.batch} lanes of "
            f"{settings.time} steps need at least {needed:,}; take a longer text, or a smaller "
            "--batch or --time"
        )
    if len(vocabulary) == 1:
        raise InputError(
            f"{name} has one {vocabulary.unit} only, {vocabulary.tokens[0]!r}, again and again, "
            "so there is nothing to learn; take another text"
        )


def _identity(folder: Path) -> tuple[int, ...]:
    """Which last.npz is in a folder: its size, and a checksum of its end, where an archive has
    those of all that is in it."""
    try:
        with open_regular(folder / "last.npz") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - END_OF_ARCHIVE))
            return size, zlib.crc32(file.read())
    except (FileNotFoundError, InputError):
        return ()


def _require_no_run(folder: Path) -> None:
    if is_taken(folder):
        raise InputError(
            f"{folder} already holds a run; continue it with --resume, or give another --out"
        )


def _read_first(
    folder: Path, names: Sequence[str]
) -> tuple[str, tuple[int, dict[str, Array], dict[str, Any]]]:
    """The first file of a run that is there, of these names, and what is in it."""
    require_run(folder)
    name = next((name for name in names if (folder / name).exists()), names[-1])
    return name, load_archive(folder / name, "checkpoint")


def _names_of(settings: Settings, sha256: str) -> dict[str, str]:
    """What all ranks must begin with, each by the name it has in errors."""
    own = {f"setting {name}": repr(value) for name, value in asdict(settings).items()}
    del own["setting text"]  # which may stand elsewhere on another machine
    return {"version of rnnfast": __version__, "text": f"one of sha256 {sha256}", **own}


def is_taken(folder: Path) -> bool:
    """Whether a folder has a file that a run would write."""
    return any((folder / name).exists() for name in FILES)


def holds_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has the checkpoint of a run."""
    return (Path(folder) / "last.npz").exists()


def require_run(folder: Path) -> None:
    """Raise InputError where a folder has none."""
    if not holds_run(folder):
        raise InputError(f"{folder} holds no run; `rnnfast train --out {folder}` makes one")


def read_text(settings: Settings) -> Text:
    """The text that settings ask for."""
    if settings.text is not None:
        return Text(str(settings.text))
    return Text(f"pydoc_data.topics of Python {platform.python_version()}", builtin_corpus())
