"""A training run in a folder: started, resumed, trained, sampled and scored."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from .._checks import as_above_zero
from .._signals import collecting, kept
from .._types import Array, Ids, Seed
from .._version import __version__
from ..archive import damage
from ..errors import InputError, TrainingDiverged, TrainingInterrupted, as_word
from ..models.language_models import LanguageModel
from ..text.corpora import Text
from ..text.lanes import PADDING
from ..text.sampling import stream
from ..text.scoring import log_probabilities
from ..text.vocabulary import END_OF_LINE, UNKNOWN, UnknownToken, Vocabulary
from .corpus import Corpus, encoded, lasting, read_text, text_of_checkpoint, vocabulary_of
from .folder import cannot_be_written, locked
from .history import Record
from .ranks import ONE_RANK, OneRank, as_ranks
from .run_files import BEST, LAST, RunFiles, require_no_run
from .saved_run import SavedRun, meta_of, read_first, require_best
from .settings import Settings
from .trainer import SAVE_EVERY, Callback, OnEpoch, OnStep, Stop, StoppedByAll, Trainer

CONTEXT_BLOCKS = 4  # of training, that a model reads before it writes
SCORED_TOKENS = 4096  # of lines that are scored at once


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
    context: Ids  # that are read before sampling

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
        self.ranks = ranks
        self.settings = settings
        self.vocabulary = vocabulary
        self.rng = rng
        self.model = _new_model(settings, len(vocabulary), rng) if model is None else model
        self._trainer: Trainer | None = None
        self._corpus: Corpus | None = None
        self.sha256, self.text_bytes = "", None
        self.context = np.zeros(0, np.int64)
        self._files = RunFiles(self.folder)

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
        with ranks.together():
            if not isinstance(settings, Settings):
                raise TypeError(f"settings: expected Settings, got {type(settings).__name__}")
        with _only_writer(folder, ranks):
            ranks.of_first(lambda: require_no_run(folder))
            return cls._start(folder, settings, verbose, ranks)

    @classmethod
    def _start(cls, folder: Path, settings: Settings, verbose: bool, ranks: OneRank) -> Self:
        with ranks.together():
            # a copy, checked again; the text is found from any folder later
            text_path = None if settings.text is None else lasting(settings.text)
            settings = replace(settings, text=text_path)
            text = read_text(settings)
            vocabulary, sha256 = vocabulary_of(text, settings, verbose and ranks.rank == 0)
        ranks.require_same(_names_of(settings, sha256))
        with ranks.together():
            rng = np.random.default_rng(settings.seed)
            run = cls(folder, settings, vocabulary, rng, ranks)
            run.sha256 = sha256
            run._encode(text, verbose, is_new=True)
            run.context = run._beginning_of_text(run.corpus.train)
            run._trainer = run._new_trainer()
        try:
            run.save()
        except BaseException as error:
            if ranks.rank == 0:
                run._files.remove_half()
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
        folder, ranks = Path(folder), as_ranks(comm)
        with ranks.together():
            seen = ranks.of_first(RunFiles(folder).identity)
            run, saved = cls._read(folder, (LAST,), ranks)
            run._files.seen = seen
            if epochs is not None:
                run.settings = replace(run.settings, epochs=epochs)
            run.read_corpus(text=text, verbose=verbose)
            with damage(folder / LAST, "checkpoint"):
                run._trainer = run._new_trainer()
                run.trainer.restore(saved.arrays, saved.position)
        return run

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, comm: Any = None) -> Self:
        """The run of a folder with the weights that validated best, to evaluate and to sample.

        `best.npz` alone is enough. Raises InputError where `last.npz` says that it is of another
        run, or lost; before the first epoch the weights are those of `last.npz`.
        """
        ranks = as_ranks(comm)
        with ranks.together():
            ranks.of_first(lambda: require_best(Path(folder)))
            run, _ = cls._read(Path(folder), (BEST, LAST), ranks)
        return run

    @classmethod
    def _read(cls, folder: Path, names: Sequence[str], ranks: OneRank) -> tuple[Self, SavedRun]:
        """The run with the weights of a file in its folder, the first that is there of these, and
        all that is in the file."""
        saved = SavedRun.from_contents(ranks.of_first(lambda: read_first(folder, names)))
        run = cls(folder, saved.settings, saved.vocabulary, saved.rng, ranks, saved.model)
        run.sha256, run.text_bytes = saved.sha256, saved.text_bytes
        run.context = saved.context
        return run, saved

    def read_corpus(
        self, *, text: str | os.PathLike[str] | None = None, verbose: bool = True
    ) -> Corpus:
        """Set `corpus` to the text that the run was started with, if it is still the same.

        `text` is the path of its file, where that has another than it had then. The path that the
        checkpoint has is followed to a regular file on this machine alone, of the size that the
        text had, and no error shows what is in it. `verbose` is as in `start`.
        """
        if text is not None:
            self.settings = replace(self.settings, text=lasting(text))
            return self._encode(read_text(self.settings), verbose)
        found = text_of_checkpoint(self.settings, self.text_bytes, self.folder)
        return self._encode(found, verbose)

    def _encode(self, text: Text, verbose: bool, *, is_new: bool = False) -> Corpus:
        self._corpus = encoded(
            text,
            self.vocabulary,
            self.sha256,
            self.folder,
            verbose=verbose and self.ranks.rank == 0,
            is_new=is_new,
        )
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
            another one has trained since; where this run comes from `Run.load`; where `fit` runs.
        """
        trainer = self.trainer
        with self.ranks.together():
            trainer.require_idle()
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
            with _only_writer(self._files.place, self.ranks), collecting():
                self.ranks.of_first(self._files.require_place)
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
                    raise TrainingInterrupted(
                        f"stopped after step {trainer.step} and saved; "
                        f"`rnnfast train --resume --out {as_word(self.folder)}` carries on",
                        kept() or None,
                    ) from None
        except KeyboardInterrupt as stopped:  # the second of them
            raise TrainingInterrupted(
                f"interrupted; {self.folder} keeps what was saved last",
                getattr(stopped, "number", signal.SIGINT),
            ) from None
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error}; {self.folder} keeps what was saved last") from None

    def _beginning_of_text(self, train_ids: Array) -> Ids:
        """The first ids of the text, up to the end of a line where there is one."""
        ids = train_ids[: CONTEXT_BLOCKS * self.settings.time].astype(np.int64)
        ends = np.flatnonzero(ids == self._newline())
        return ids[: ends[-1] + 1] if len(ends) else ids

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
            [*self.context.tolist(), *given],
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
        with _only_writer(self._files.place, self.ranks):
            self.ranks.of_first(lambda: self._write(arrays, position, best))

    def _write(self, arrays: dict[str, Array], position: dict[str, Any], best: bool) -> None:
        validated = self.trainer.validated_params() if best else {}
        weights = {f"param/{name}": W for name, W in validated.items()}
        own = {"context": self.context}
        self._files.write(
            arrays | own,
            meta_of(self),
            position,
            self.trainer.history,
            weights | own if best else None,
        )

    def _save_if_possible(self, verbose: bool) -> None:
        """Save within an epoch: a disk that is full for now is no reason to stop."""
        try:
            self.save()
        except OSError as error:
            if self.ranks.size > 1:  # the others have an error, too
                raise
            if verbose and sys.stderr:
                with contextlib.suppress(OSError):  # that disk may be full, too
                    print(f"rnnfast: not saved: {error}; training goes on", file=sys.stderr)


def _new_model(settings: Settings, vocab_size: int, rng: np.random.Generator) -> LanguageModel:
    try:
        return LanguageModel(vocab_size, rng=rng, **settings.of_model)
    except (MemoryError, OverflowError, ValueError) as error:
        raise InputError(
            f"no model of hidden size {settings.hidden}, embedding size {settings.embedding} "
            f"and {settings.layers} layers can be made: {error}; take other sizes"
        ) from error


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


def _names_of(settings: Settings, sha256: str) -> dict[str, str]:
    """What all ranks must begin with, each by the name it has in errors."""
    own = {f"setting {name}": repr(value) for name, value in asdict(settings).items()}
    del own["setting text"]  # which may stand elsewhere on another machine
    return {"version of rnnfast": __version__, "text": f"one of sha256 {sha256}", **own}
