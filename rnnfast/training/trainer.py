"""Training by truncated BPTT: epochs over parallel lanes, state carried from block to block."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from .._checks import as_above_zero, as_bool, as_count, as_fraction, as_real, is_number
from .._signals import kept
from .._types import Array, Ids
from .._version import __version__
from ..errors import InputError, TrainingDiverged, TrainingInterrupted
from ..kernels import engine
from ..models import Network
from ..text.lanes import PADDING, Block, Blocks
from . import checkpoint
from .fields import require_position
from .history import History, Record, taken_from
from .progress import Progress
from .ranks import OneRank, as_ranks, checksum, checksum_of_text
from .schedules import ReduceLROnPlateau, Schedule
from .steps import take_step_of_blocks

OnStep: TypeAlias = Callable[[int, float], object]
OnEpoch: TypeAlias = Callable[[Record, bool], object]
Stop: TypeAlias = Callable[[], bool]


class StoppedByAll(TrainingInterrupted):
    """All ranks have stopped, and can go on together: one that raises another may be alone."""


class Callback:
    """What `fit` calls while it trains; one of one's own overrides what it needs.

    Nothing of it is kept in checkpoints.

    Examples
    --------
    >>> import rnnfast
    >>> class Losses(rnnfast.Callback):
    ...     def __init__(self):
    ...         self.losses = []
    ...     def on_step(self, trainer, tokens, loss):
    ...         self.losses.append(loss)
    >>> ids = [0, 1, 2, 3] * 20
    >>> model, losses = rnnfast.Rnnlm(4, 4, 4, rng=0), Losses()
    >>> trainer = rnnfast.Trainer(model, rnnfast.SGD(), ids, ids, batch_size=2, time_size=4)
    >>> trainer.fit(1, verbose=False, callbacks=[losses])
    >>> len(losses.losses) == trainer.step
    True
    """

    def on_step(self, trainer: "Trainer", tokens: int, loss: float) -> None:
        """After every step: how many tokens it had, and its loss in nats per token."""

    def on_epoch(self, trainer: "Trainer", record: Record, improved: bool) -> None:
        """After every epoch: its last line of the history, and whether validation improved."""


def evaluate(
    model: Network,
    ids: Array,
    *,
    batch_size: int = 32,
    time_size: int = 64,
    comm: Any = None,
) -> float:
    """Mean cross entropy of a text in nats per token; the model's carried state is untouched.

    The text is read in `batch_size` parallel lanes, each starting from zeros (fewer where lanes
    would be shorter than `time_size`). Every token but the first counts once. Layers compute as in
    evaluation. The processes of a communicator of mpi4py `comm`, which all must call this, share
    the lanes, and get the loss of all.
    """
    ranks, sums = as_ranks(comm), np.zeros(3)  # of losses; tokens; those that were asked to stop
    with ranks.together(sums):
        if len(ids) < 2:
            raise InputError(
                f"the text has {len(ids)} tokens, but at least 2 are needed to evaluate"
            )
        batch_size, time_size = as_count("batch_size", batch_size), as_count("time_size", time_size)
        batch_size = max(1, min(batch_size, len(ids) // time_size))
        mine = ranks.share(batch_size)
        carried = model.get_state()
        model.reset_state()
        try:
            with model.in_evaluation():
                for xs, ts in Blocks(ids, batch_size, time_size):
                    if n := _counted(model, ts[mine]):
                        loss = model.forward(xs[mine], ts[mine], need_gradient=False)
                        sums[:2] += loss * n, n
                    if kept():
                        sums[2] = 1
                        break
        finally:
            model.set_state(carried)
    if sums[2]:
        with ranks.together():
            raise StoppedByAll("stopped while the loss of a text was computed")
    return float(sums[0] / sums[1])


SAVE_EVERY = 5.0  # minutes
DEFAULT_SCHEDULE = ReduceLROnPlateau(0.5)
GONE_APART = "they have gone apart: something in a layer, callback or schedule is not the same"
CHECKED_EVERY = 256  # steps, whether all ranks have the same weights
# What has `fit` of a trainer, by the trainer's id: a copy that a callback makes is another.
_fitting: dict[int, object] = {}
_mutex = threading.Lock()
SETTINGS_OF_ALL = (  # that all ranks must have
    *("batch_size", "time_size", "window", "accumulate", "max_grad", "max_value", "peak_lr"),
    *("patience", "average", "restore_best", "record_every", "best_loss"),
)


class Trainer:
    """Trains a language model on ids, and stops, carries on and looks back where told.

    Parameters
    ----------
    model : Network that makes a loss in nats of ids (N, T) and targets (N, T)
    optimizer : as in `rnnfast.training.optimizers`
    train_ids, valid_ids : int arrays (M,), of any integer dtype
        They are not copied, and may be in a file (`numpy.memmap`).
    batch_size, time_size : int, keyword-only (like all that follow)
        N lanes, and T tokens of each in a block: one step of the optimizer.
    window : int or None
        Through how many of the latest tokens of each lane the gradient of a block's loss flows, a
        multiple of `time_size`; None is those of the block alone. A window begins with the state
        that the model had carried to there, and its tokens before the block are read again: a step
        takes about window / time_size times as long.
    accumulate : int
        How many blocks in a row make one step: its gradient is that of the mean loss of all their
        tokens. The last step of an epoch may have fewer.
    max_grad : float or None
        Norm at which the gradients are clipped. Gradients that are not finite update nothing,
        with None either.
    max_value : float or None
        To -max_value..max_value every number of the gradients is clipped, before the norm is.
    schedule : Schedule
        What the learning rate is: ReduceLROnPlateau(), ConstantLR(), CosineLR(), or one's own.
    patience : int or None
        After how many epochs in a row without a better validation loss `fit` ends; None is never.
    average : float or None
        Validate with averaged weights, and let the best ones be averages: after every step, they
        become average * themselves + (1 - average) * the weights. 0.99 or 0.999 is usual; in step
        t it is no more than t / (9 + t), so that the first weights are soon forgotten.
    restore_best : bool
        Whether `fit`, where it returns, has put the weights that validated best into the model.
        When it is called again, it carries on from these.
    records_per_epoch : int
        Lines of the history in an epoch.
    comm : communicator of mpi4py, or None
        Processes that train the same model together, such as MPI.COMM_WORLD. Each makes a Trainer
        of the same model, optimizer, text and settings, calls the same methods, and computes on its
        share of the lanes of every block; all take the same steps, those of one process. The loss
        must be a mean over the targets that are not ignored (-1, or its `ignore_label`). The arrays
        in `grads` of the model and its layers become others, views of one. A rank takes its share
        of the machine's CPUs as threads, unless `set_num_threads` was called before.
    unit : str
        What to call a token in what is shown; of a "word", perplexities are shown first.

    Attributes
    ----------
    epoch, step : whole epochs and optimizer steps done
    best_loss : lowest validation loss so far, in nats per token
    peak_lr : the learning rate that a schedule starts from, that of the optimizer; may be set
    schedule, patience, max_grad, max_value : as given; may be set
    ranks : the processes of `comm`: `ranks.rank` is which one this is, of `ranks.size`
    history : sequence of `Record`, a line for every few steps
    """

    model: Network
    optimizer: Any
    valid_ids: Array
    batch_size: int
    time_size: int
    window: int
    accumulate: int
    max_grad: float | None
    max_value: float | None
    schedule: Schedule
    peak_lr: float
    patience: int | None
    average: float | None
    restore_best: bool
    unit: str
    ranks: OneRank
    blocks: Blocks
    record_every: int
    epoch: int
    step: int
    block: int
    best_loss: float
    history: History

    def __init__(
        self,
        model: Network,
        optimizer: Any,
        train_ids: Array,
        valid_ids: Array,
        *,
        batch_size: int = 32,
        time_size: int = 64,
        window: int | None = None,
        accumulate: int = 1,
        max_grad: float | None = 1.0,
        max_value: float | None = None,
        schedule: Schedule = DEFAULT_SCHEDULE,
        patience: int | None = None,
        average: float | None = None,
        restore_best: bool = False,
        records_per_epoch: int = 10,
        unit: str = "token",
        comm: Any = None,
    ) -> None:
        self.ranks = as_ranks(comm)
        with self.ranks.together():
            batch_size, time_size = (
                as_count("batch_size", batch_size),
                as_count("time_size", time_size),
            )
            window = time_size if window is None else as_count("window", window)
            if window % time_size:
                raise ValueError(
                    f"window: expected a multiple of time_size ({time_size}), got {window}; "
                    f"take {-(-window // time_size) * time_size}"
                )
            if not isinstance(schedule, Schedule):
                raise TypeError(
                    f"schedule: expected a Schedule, such as ConstantLR(), got {schedule!r}"
                )
            records_per_epoch = as_count("records_per_epoch", records_per_epoch)
            if len(train_ids) <= batch_size * time_size:
                raise InputError(
                    f"the training part has {len(train_ids):,} tokens, but {batch_size} lanes of "
                    f"{time_size} need at least {batch_size * time_size + 1:,}; take a longer "
                    "text, or smaller batch and time sizes"
                )
            if len(valid_ids) < 2:
                raise InputError(
                    f"the validation part has {len(valid_ids)} tokens, but needs at least 2; "
                    "take a longer text"
                )
            if batch_size < self.ranks.size:
                raise InputError(
                    f"batch_size: expected at least one lane for each of {self.ranks.size} ranks, "
                    f"got {batch_size}; take a larger batch, or fewer ranks"
                )
            self.ranks.hold_gradients(model)
            self.model, self.optimizer = model, optimizer
            self.valid_ids = valid_ids
            self.batch_size, self.time_size, self.window = batch_size, time_size, window
            self.accumulate = as_count("accumulate", accumulate)
            self.max_grad = None if max_grad is None else as_above_zero("max_grad", max_grad)
            self.max_value = None if max_value is None else as_above_zero("max_value", max_value)
            self.schedule, self.peak_lr = schedule, optimizer.lr
            hint = "None is never"
            self.patience = None if patience is None else as_count("patience", patience, hint=hint)
            self.average = None if average is None else as_fraction("average", average)
            self.restore_best = as_bool("restore_best", restore_best)
            self.unit = unit
            self.blocks = Blocks(train_ids, batch_size, time_size)
            self.record_every = max(1, len(self.blocks) // records_per_epoch)
            self.epoch = self.step = self.block = 0
            self.best_loss = math.inf
            self.history = History()
            # what the model carried before the latest blocks but the newest, see `_windows`
            self._earlier: list[checkpoint.Carried] = []
            self._lanes = self.ranks.share(batch_size)  # those of this rank
            self._averages = [] if average is None else [W.copy() for W in model.params]
            self._best: list[Array] = []
            self._begin_record()

    @property
    def tokens_per_epoch(self) -> int:
        """How many tokens are a target in an epoch."""
        return self.blocks.tokens

    @property
    def steps_per_epoch(self) -> int:
        """How many steps of the optimizer an epoch has."""
        return -(-len(self.blocks) // self.accumulate)

    @property
    def epochs_since_best(self) -> int:
        """How many epochs there were after the one with the lowest validation loss."""
        losses = [line.valid_loss for line in self.history if line.valid_loss is not None]
        if self.best_loss not in losses:  # no loss was finite
            return len(losses)
        return len(losses) - 1 - losses.index(self.best_loss)

    @property
    def stopped_early(self) -> bool:
        """Whether validation has not improved for `patience` epochs: `fit` trains no further until
        `patience` is set to more, or to None."""
        return self.patience is not None and self.epochs_since_best >= self.patience

    def validated_params(self) -> dict[str, Array]:
        """The weights that are validated, by name: the averaged ones, or those of the model."""
        params = self.model.named_params()
        return dict(zip(params, self._averages, strict=True)) if self._averages else params

    def fit(
        self,
        epochs: int,
        *,
        verbose: bool = True,
        on_step: OnStep | None = None,
        on_epoch: OnEpoch | None = None,
        callbacks: Iterable[Callback] = (),
        stop: Stop | None = None,
        save: Callable[[], object] | None = None,
        save_every: float = SAVE_EVERY,
    ) -> None:
        """Train until `epochs` epochs are done in all, those of calls before included, or until
        validation has not improved for `patience` epochs: `stopped_early` says which.

        This is the low-level call, which writes no file, and which Ctrl-C may end within a step:
        `Run.fit` saves, and finishes the step.

        Parameters
        ----------
        epochs : int
        verbose : bool, keyword-only (like all that follow)
            Whether to show, on standard error, how far the training is and a line for every epoch.
        on_step : called with (tokens, loss) after every step
        on_epoch : called with (record, improved) after every epoch
        callbacks : objects of a `Callback`, called after these two
        stop : asked after every step whether to stop there
        save : called where `save_every` minutes have gone by, between two steps
        save_every : float

        What they raise comes out of `fit`; calling `fit` again carries on as if it had not been.
        With several ranks, each calls its own; one that says stop stops all, and of what one raises
        the others raise a RankError. Rank 0 alone shows something.

        Raises
        ------
        TrainingDiverged
            When a loss or a gradient is not finite: nothing is updated with it. When the weights
            are not, at the end of an epoch or where stop() said so.
        TrainingInterrupted
            When stop() said so. Calling `fit` again carries on.
        InputError, RuntimeError
            Where the schedule does not fit so many epochs; where `fit` is running; nothing has
            changed then.
        RankError
            Where another rank has raised an error, or the ranks do not have the same text, settings
            or weights, which is looked at when `fit` begins, and every 256 steps.
        """
        with self.ranks.together():
            self.require_idle()
            epochs = as_count("epochs", epochs, least=0)
            save_every = as_above_zero("save_every", save_every)
            callbacks = tuple(callbacks)
            for callback in callbacks:
                if not isinstance(callback, Callback):
                    raise TypeError(f"callbacks: expected objects of a Callback, got {callback!r}")
            begins = self.epoch < epochs and not self.stopped_early
            if begins:
                self._next_lr(epochs)  # an error if it has none
            fields = self._what_ranks_share(epochs)
        self.ranks.require_same(fields)
        if begins:
            verbose = verbose and self.ranks.rank == 0
            with self._alone(), self._lanes_of_this_rank():
                self._fit(epochs, verbose, on_step, on_epoch, callbacks, stop, save, save_every)
        _write(self.model.params, self._best)

    def _fit(
        self,
        epochs: int,
        verbose: bool,
        on_step: OnStep | None,
        on_epoch: OnEpoch | None,
        callbacks: Sequence[Callback],
        stop: Stop | None,
        save: Callable[[], object] | None,
        save_every: float,
    ) -> None:
        saved = time.monotonic()
        per_epoch = self.tokens_per_epoch
        done = int(per_epoch * (self.epoch + self.block / len(self.blocks)))
        with Progress(per_epoch * epochs, done, verbose=verbose) as progress:
            while self.epoch < epochs and not self.stopped_early:
                if self.block == 0:
                    self.model.reset_state()
                while self.block < len(self.blocks):
                    asked = np.zeros(2)  # to stop, to save
                    with self.ranks.together(asked):
                        tokens, loss = self._take_step(epochs)
                        progress.advance(tokens, _in_short(loss, self.unit))
                        if on_step:
                            on_step(tokens, loss)
                        for callback in callbacks:
                            callback.on_step(self, tokens, loss)
                        asked[0] = bool(kept()) or (stop is not None and bool(stop()))
                        asked[1] = save is not None and time.monotonic() > saved + 60 * save_every
                    if self.step % CHECKED_EVERY == 0:
                        self._require_same_ranks()
                    if asked.any():
                        with self.ranks.together():
                            self._require_finite_weights()
                    if asked[0]:
                        with self.ranks.together():
                            raise StoppedByAll(f"stopped after step {self.step}")
                    if asked[1] and save is not None:
                        save()
                        saved = time.monotonic()
                with self.ranks.together():
                    record, improved = self._end_epoch()
                    saved = time.monotonic()
                    progress.line(self._epoch_line(record, epochs))
                    if on_epoch:
                        on_epoch(record, improved)
                    for callback in callbacks:
                        callback.on_epoch(self, record, improved)
                self._require_same_ranks()
            if self.stopped_early:
                best = loss_text(self.best_loss, self.unit)
                progress.line(f"stopped early (patience {self.patience}); best validation: {best}")

    def require_idle(self) -> None:
        """Raise RuntimeError where `fit` is running."""
        if id(self) in _fitting:
            raise RuntimeError(
                "fit is running; it cannot be called by what it calls, nor by another thread: "
                "return from there, or give the first call as many epochs"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within it, `fit` cannot be called: each of the two would count the other's steps."""
        own = object()
        try:
            with _mutex:
                self.require_idle()
                _fitting[id(self)] = own
            yield
        finally:
            if _fitting.get(id(self)) is own:
                del _fitting[id(self)]

    @contextmanager
    def _lanes_of_this_rank(self) -> Iterator[None]:
        """Within it, the model draws masks for these."""
        if self.ranks.size == 1:
            yield
            return
        before = self.model.batch_part
        self.model.batch_part = self._lanes.start, self.batch_size
        try:
            yield
        finally:
            self.model.batch_part = before

    def _what_ranks_share(self, epochs: int) -> dict[str, str]:
        """What all ranks must have to take the same steps, each by the name it has in errors."""
        if self.ranks.size == 1:
            return {}
        params = self.model.named_params()
        return {
            "version of rnnfast": __version__,
            "instruction set (RNNFAST_CPU sets it)": _level_for(self.model),
            "parameters": ", ".join(f"{name} {W.dtype} {W.shape}" for name, W in params.items()),
            "number of epochs": str(epochs),
            **dict(zip(("training text", "validation text"), self._checksums, strict=True)),
            **self._what_changes(),
        }

    @cached_property
    def _checksums(self) -> tuple[str, str]:
        """Those of both texts, which do not change."""
        return checksum_of_text(self.blocks.ids), checksum_of_text(np.asarray(self.valid_ids))

    def _require_same_ranks(self) -> None:
        with self.ranks.together():
            fields = self._what_changes()
        self.ranks.require_same(fields, GONE_APART)

    def _what_changes(self) -> dict[str, str]:
        """What the ranks must still have after some steps."""
        if self.ranks.size == 1:
            return {}
        return {
            "place in the text": f"epoch {self.epoch}, block {self.block}, step {self.step}",
            **{name: repr(getattr(self, name)) for name in SETTINGS_OF_ALL},
            "options of the layers": _options_of(self.model),
            "optimizer": _numbers_of(self.optimizer),
            "schedule": _numbers_of(self.schedule),
            "state of the random generators": checksum([repr(self.model.random_state()).encode()]),
            "weights": checksum([*self.model.params, *self._averages, *self._best]),
            "state of the optimizer": checksum(chain(*getattr(self.optimizer, "state", ()))),
        }

    def _take_step(self, epochs: int) -> tuple[int, float]:
        started = time.perf_counter()
        end = min(self.block + self.accumulate, len(self.blocks))
        blocks = [self.blocks[k] for k in range(self.block, end)]
        tokens = sum(_counted(self.model, ts) for _, ts in blocks)
        earlier, lr, step = list(self._earlier), self.optimizer.lr, self.step + 1
        # what is added to the averages: there must be memory for it when weights have changed
        size = max((W.nbytes for W in self._averages), default=0)
        memory = np.empty(size, np.uint8)
        try:
            self.optimizer.lr = self._next_lr(epochs)
            loss = take_step_of_blocks(
                self.model,
                self.optimizer,
                self._windows(blocks, earlier),
                [_counted(self.model, ts[self._lanes]) / max(tokens, 1) for _, ts in blocks],
                max_grad=self.max_grad,
                max_value=self.max_value,
                where=self._place,
                ranks=self.ranks,
            )
        except BaseException:
            self.optimizer.lr = lr
            raise
        self._earlier = earlier
        ends_record = self.block // self.record_every < end // self.record_every
        self.block = end
        self.step = step
        self._add_to_averages(memory)
        self._loss_sum += loss * tokens
        self._tokens += tokens
        self._seconds += time.perf_counter() - started
        if ends_record and self.block < len(self.blocks):
            self._end_record(None)
        return tokens, loss

    def _windows(self, blocks: list[Block], earlier: list[checkpoint.Carried]) -> Iterator[Block]:
        """The blocks, the first of which is next, each behind those before it in its window, whose
        targets count for nothing; when one is asked for, the model is put where its window begins.

        earlier[-k] is what the model carried before the k-th of the blocks before it.
        """
        size = self.window // self.time_size
        for number, (xs, ts) in enumerate(blocks, self.block):
            if size > 1:
                earlier.append(checkpoint.copies(self.model.get_state()))
                before = [self.blocks[number - k][0] for k in range(len(earlier) - 1, 0, -1)]
                self.model.set_state(earlier[0])
                del earlier[: 1 - size]
                xs = np.concatenate([*before, xs], axis=1)
                ignored = np.full((len(ts), xs.shape[1] - ts.shape[1]), PADDING)
                ts = np.concatenate([ignored, ts], axis=1)
            yield xs[self._lanes], ts[self._lanes]

    def _next_lr(self, epochs: int) -> float:
        """What the schedule says of the next step."""
        return self._as_lr(
            "before_step",
            self.schedule.before_step(
                self.optimizer.lr,
                peak=self.peak_lr,
                step=self.step,
                per_epoch=self.steps_per_epoch,
                epochs=epochs,
            ),
        )

    def _as_lr(self, method: str, lr: Any) -> float:
        if not 0 <= as_real(lr) < math.inf:
            raise ValueError(
                f"schedule: expected a finite learning rate of at least 0 from "
                f"{type(self.schedule).__name__}.{method}, got {lr!r}"
            )
        return float(lr)

    def _add_to_averages(self, memory: Array) -> None:
        """Bytes of memory, as many as the largest of the weights has, are used for each."""
        if self._averages:
            assert self.average is not None
            kept = min(self.average, self.step / (9 + self.step))
            for average, W in zip(self._averages, self.model.params, strict=True):
                average *= kept
                own = memory[: W.nbytes].view(W.dtype).reshape(W.shape)
                average += np.multiply(1 - kept, W, out=own)

    def _place(self) -> str:
        """Which step is next."""
        return (
            f"at step {self.step + 1} (epoch {self.epoch + 1}, block {self.block + 1} of "
            f"{len(self.blocks)})"
        )

    def _epoch_line(self, record: Record, epochs: int) -> str:
        assert record.valid_loss is not None
        training, words = record.train_loss, self.unit == "word"
        shown = f"perplexity {perplexity(training):.3f}" if words else f"{training:.4f}"
        return (
            f"epoch {self.epoch}/{epochs}: training {shown} at its end, "
            f"validation {loss_text(record.valid_loss, self.unit)}, "
            f"lr {record.lr:g}, {record.tokens_per_second:,.0f} tokens/s"
        )

    def _require_finite_weights(self) -> None:
        """The last update of an epoch may overflow, and no loss follows it that would tell."""
        if not all(np.isfinite(W).all() for W in self.model.params):
            raise TrainingDiverged(
                f"weights are not finite after step {self.step} (epoch {self.epoch + 1}); "
                "try a smaller learning rate"
            )

    def _end_epoch(self) -> tuple[Record, bool]:
        self._require_finite_weights()
        with self._averaged(), np.errstate(all="ignore"):  # as in a step
            valid_loss = evaluate(
                self.model,
                self.valid_ids,
                batch_size=self.batch_size,
                time_size=self.window,
                comm=self.ranks,
            )
        improved = valid_loss < self.best_loss
        since = 0 if improved else self.epochs_since_best + 1
        lr = self.schedule.after_epoch(self.optimizer.lr, epochs_since_best=since)
        lr = self._as_lr("after_epoch", lr)  # an error comes before anything has changed
        self.epoch += 1
        self.block = 0
        self._earlier = []
        record = self._end_record(valid_loss)
        if improved:
            self.best_loss = valid_loss
            if self.restore_best:
                self._best = [W.copy() for W in self.validated_params().values()]
        self.optimizer.lr = lr
        return record, improved

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within it, the model has the weights that are validated."""
        own = [W.copy() for W in self.model.params] if self._averages else []
        try:
            _write(self.model.params, self._averages)
            yield
        finally:
            _write(self.model.params, own)

    def _begin_record(self) -> None:
        self._loss_sum, self._tokens, self._seconds = 0.0, 0, 0.0

    def _end_record(self, valid_loss: float | None) -> Record:
        record = Record(
            epoch=self.epoch + self.block / len(self.blocks),
            step=self.step,
            lr=self.optimizer.lr,
            train_loss=self._loss_sum / max(1, self._tokens),
            valid_loss=valid_loss,
            valid_perplexity=None if valid_loss is None else perplexity(valid_loss),
            valid_bits_per_token=None if valid_loss is None else valid_loss / math.log(2),
            tokens_per_second=self._tokens / max(self._seconds, 1e-9),
        )
        self.history.append(record)
        self._begin_record()
        return record

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Everything that `restore` needs to carry on bit for bit: (arrays by name, JSON dict).

        The arrays are those of the model and the optimizer themselves, not copies. All ranks must
        call this, and get the same.
        """
        with self.ranks.together():
            return self._state()

    def _state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        within = self.block > 0  # an epoch: it begins with nothing carried
        carried = [*self._earlier, self.model.get_state()] if within else []
        carried = checkpoint.of_all_ranks(self.model, carried, self.ranks, self._lanes)
        arrays = checkpoint.arrays_of(self.model, self.optimizer, carried)
        for kind, weights in (("average", self._averages), ("best", self._best)):
            arrays |= checkpoint.weights_as(kind, self.model, weights)
        arrays["history"] = self.history.rows
        position = {
            "epoch": self.epoch,
            "block": self.block,
            "step": self.step,
            "lr": self.optimizer.lr,
            "optimizer_steps": self.optimizer.steps,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "record": [self._loss_sum, self._tokens, self._seconds],
            "carried": [name for name in arrays if name.startswith("carried/")],
            "random_state": self.model.random_state(),
            "peak_lr": self.peak_lr,
            "earlier": len(self._earlier),
        }
        return arrays, position

    def restore(self, arrays: Mapping[str, Array], position: Mapping[str, Any]) -> None:
        """Take the place of the trainer whose `state` this is; everything is copied.

        The settings are those of this trainer. Where they ask for more than the state has (of a
        version or a trainer without averages, best weights or a window), averages begin with the
        weights, windows with what is there, and best weights are those of a later epoch.

        Raises InputError, or ValueError where the layers' generators are of another kind; nothing
        has changed then.
        """
        with self.ranks.together():
            self._restore(arrays, position)

    def _restore(self, arrays: Mapping[str, Array], position: Mapping[str, Any]) -> None:
        require_position(position)
        epoch, block, step = (position[key] for key in ("epoch", "block", "step"))
        # what follows the random state was not there in earlier versions
        peak_lr, earlier = position.get("peak_lr", self.peak_lr), position.get("earlier", 0)
        for name, value, most in (("block", block, len(self.blocks)), ("earlier", earlier, block)):
            if value > most:
                raise InputError(f"{name}: expected at most {most}, got {value}")
        lr, best = position["lr"], position["best_loss"]
        history, arrays = taken_from(arrays)
        loss_sum, tokens, seconds = position["record"]
        rest, weights = checkpoint.taken_out(("average", "best"), arrays, self.model)
        # all that needs memory comes first
        averages, best_weights = (
            checkpoint.copies_of(kind, weights[kind] if kept else {}, self.model)
            for kind, kept in (("average", self.average is not None), ("best", self.restore_best))
        )
        begun = self.average is not None and not averages
        if begun:
            averages = [np.empty_like(W) for W in self.model.params]
        before = checkpoint.restore(
            self.model,
            self.optimizer,
            rest,
            steps=position["optimizer_steps"],
            carried=position["carried"],
            earlier=earlier,
            rows=self.batch_size,
            random_state=position["random_state"],
        )
        self.epoch, self.block, self.step = epoch, block, step
        self.optimizer.lr, self.history = lr, history
        self.best_loss = math.inf if best is None else best
        self.peak_lr = peak_lr
        if self.ranks.size > 1:
            lanes = self._lanes
            before = [checkpoint.rows_of(self.model, states, lanes) for states in before]
            self.model.set_state(checkpoint.rows_of(self.model, self.model.get_state(), lanes))
        self._earlier = before[max(0, earlier + 1 - self.window // self.time_size) :]
        if begun:
            _write(averages, self.model.params)
        self._averages, self._best = averages, best_weights
        self._loss_sum, self._tokens, self._seconds = loss_sum, tokens, seconds


def perplexity(loss: float) -> float:
    """e^loss, and inf where that is beyond a float."""
    return math.exp(loss) if loss < 700 else math.inf


def loss_text(loss: float, unit: str) -> str:
    """A loss in nats, and what else it is called; `unit` is what a token is.

    The perplexity comes first for words, as it is usual for them.
    """
    nats, called = f"{loss:.4f} nats", f"perplexity {perplexity(loss):.3f}"
    first, second = (called, nats) if unit == "word" else (nats, called)
    return f"{first} ({second}, {loss / math.log(2):.4f} bits per {unit})"


def _in_short(loss: float, unit: str) -> str:
    """The loss of a step, as it is shown beside the progress."""
    return f"perplexity {perplexity(loss):.1f}" if unit == "word" else f"loss {loss:.3f}"


def _numbers_of(thing: Any) -> str:
    """The class of an optimizer or a schedule, and its numbers."""
    own = getattr(thing, "__dict__", {}).items()
    numbers = {name: value for name, value in own if is_number(value) or isinstance(value, bool)}
    return f"{type(thing).__name__} {numbers}"


def _level_for(model: Network) -> str:
    """The instruction set that decides which bits a model's numbers have. That of bf16 gives those
    of the one below it where no operands are rounded."""
    layers = (*model.layers, model.loss_layer)
    rounds = any(getattr(layer, "precision", None) == "bfloat16" for layer in layers)
    return engine.CPU_LEVEL if rounds else engine.CPU_LEVEL.removesuffix("_bf16")


def _options_of(model: Network) -> str:
    """The kinds of a model's layers and their options, as far as they say."""
    layers = zip((*model.layer_names, "loss"), (*model.layers, model.loss_layer), strict=True)
    return "; ".join(
        f"{name}: {type(layer).__name__} {layer.config() if hasattr(layer, 'config') else ''} "
        f"{'in training' if getattr(layer, 'training', True) else 'in evaluation'}"
        for name, layer in layers
    )


def _write(params: Sequence[Array], weights: Sequence[Array]) -> None:
    """Write weights into parameters, if there are any."""
    for W, given in zip(params, weights, strict=bool(weights)):
        W[...] = given


def _counted(model: Network, targets: Ids) -> int:
    """How many targets the loss of a model is a mean over."""
    ignored = getattr(getattr(model, "loss_layer", None), "ignore_label", PADDING)
    return int(((targets != ignored) & (targets != PADDING)).sum())


def _forget() -> None:
    """In a child made by fork: what its parent trains, it does not."""
    global _mutex  # noqa: PLW0603 - a lock that somebody had is had for ever
    _mutex = threading.Lock()
    _fitting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
