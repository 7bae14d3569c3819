"""Training by truncated BPTT: epochs over parallel lanes, state carried from block to block."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from .._checks import as_above_zero, as_count
from .._types import Array, Ids
from ..errors import InputError, TrainingDiverged, TrainingInterrupted
from ..models import Network
from ..text.lanes import PADDING, Blocks
from . import checkpoint
from .progress import Progress
from .steps import take_step


@dataclass
class Record:
    """A line of the history: what was seen since the line before.

    Losses are means in nats per token. The last line of an epoch has a validation loss, with its
    perplexity (e to it) and bits per token (it over ln 2); the others have None there.
    """

    epoch: float
    step: int
    lr: float
    train_loss: float
    valid_loss: float | None
    valid_perplexity: float | None
    valid_bits_per_token: float | None
    tokens_per_second: float


OnStep: TypeAlias = Callable[[int, float], object]
OnEpoch: TypeAlias = Callable[[Record, bool], object]
Stop: TypeAlias = Callable[[], bool]


def evaluate(model: Network, ids: Array, *, batch_size: int = 32, time_size: int = 64) -> float:
    """Mean cross entropy of a text in nats per token; the model's carried state is untouched.

    The text is read in `batch_size` parallel lanes, each starting from zeros (fewer where lanes
    would be shorter than `time_size`). Every token but the first counts once. Layers compute as in
    evaluation.
    """
    if len(ids) < 2:
        raise InputError(f"the text has {len(ids)} tokens, but at least 2 are needed to evaluate")
    batch_size, time_size = as_count("batch_size", batch_size), as_count("time_size", time_size)
    batch_size = max(1, min(batch_size, len(ids) // time_size))
    carried = model.get_state()
    model.reset_state()
    total, count = 0.0, 0
    try:
        with model.in_evaluation():
            for xs, ts in Blocks(ids, batch_size, time_size):
                n = _counted(ts)
                total += model.forward(xs, ts, need_gradient=False) * n
                count += n
    finally:
        model.set_state(carried)
    return total / count


class Trainer:
    """Trains a language model on ids, and stops, carries on and looks back where told.

    Parameters
    ----------
    model : Network that makes a loss in nats of ids (N, T) and targets (N, T)
    optimizer : as in `rnnfast.training.optimizers`
    train_ids, valid_ids : int arrays (M,), of any integer dtype
        They are not copied, and may be in a file (`numpy.memmap`).
    batch_size, time_size : int
        N lanes, and T tokens of each in a block: one step of the optimizer.
    max_grad : float or None
        Norm at which the gradients are clipped. Gradients that are not finite update nothing,
        with None either.
    lr_decay : float
        What the learning rate is multiplied by after an epoch that did not improve validation.
    records_per_epoch : int
        Lines of the history in an epoch.
    unit : str
        What to call a token in what is shown.

    Attributes
    ----------
    epoch, step : whole epochs and optimizer steps done
    best_loss : lowest validation loss so far, in nats per token
    history : list of Record
    """

    model: Network
    optimizer: Any
    valid_ids: Array
    batch_size: int
    time_size: int
    max_grad: float | None
    lr_decay: float
    unit: str
    blocks: Blocks
    record_every: int
    epoch: int
    step: int
    block: int
    best_loss: float
    history: list[Record]

    def __init__(
        self,
        model: Network,
        optimizer: Any,
        train_ids: Array,
        valid_ids: Array,
        *,
        batch_size: int = 32,
        time_size: int = 64,
        max_grad: float | None = 1.0,
        lr_decay: float = 0.5,
        records_per_epoch: int = 10,
        unit: str = "token",
    ) -> None:
        batch_size, time_size = as_count("batch_size", batch_size), as_count("time_size", time_size)
        records_per_epoch = as_count("records_per_epoch", records_per_epoch)
        if len(train_ids) <= batch_size * time_size:
            raise InputError(
                f"the training part has {len(train_ids):,} tokens, but {batch_size} lanes of "
                f"{time_size} need at least {batch_size * time_size + 1:,}; take a longer text, "
                "or smaller batch and time sizes"
            )
        if len(valid_ids) < 2:
            raise InputError(
                f"the validation part has {len(valid_ids)} tokens, but needs at least 2; "
                "take a longer text"
            )
        self.model, self.optimizer = model, optimizer
        self.valid_ids = valid_ids
        self.batch_size, self.time_size = batch_size, time_size
        self.max_grad = None if max_grad is None else as_above_zero("max_grad", max_grad)
        self.lr_decay = as_above_zero("lr_decay", lr_decay)
        self.unit = unit
        self.blocks = Blocks(train_ids, batch_size, time_size)
        self.record_every = max(1, len(self.blocks) // records_per_epoch)
        self.epoch = self.step = self.block = 0
        self.best_loss = math.inf
        self.history = []
        self._begin_record()

    @property
    def tokens_per_epoch(self) -> int:
        """How many tokens are a target in an epoch."""
        return self.blocks.tokens

    def fit(
        self,
        epochs: int,
        *,
        verbose: bool = True,
        on_step: OnStep | None = None,
        on_epoch: OnEpoch | None = None,
        stop: Stop | None = None,
    ) -> None:
        """Train until `epochs` epochs are done in all, those of calls before included.

        This is the low-level call, which writes no file, and which Ctrl-C may end within a step:
        `Run.fit` saves, and finishes the step.

        Parameters
        ----------
        epochs : int
        verbose : bool, keyword-only (like all that follow)
            Whether to show, on standard error, how far the training is and a line for every epoch.
        on_step : called with (tokens, loss) after every step
        on_epoch : called with (record, improved) after every epoch
        stop : asked after every step whether to stop there

        What they raise comes out of `fit`; calling `fit` again carries on as if it had not been.

        Raises
        ------
        TrainingDiverged
            When a loss or a gradient is not finite: nothing is updated with it. When the weights
            are not, at the end of an epoch or where stop() said so.
        TrainingInterrupted
            When stop() said so. Calling `fit` again carries on.
        """
        epochs = as_count("epochs", epochs, least=0)
        if self.epoch >= epochs:
            return
        per_epoch = self.tokens_per_epoch
        done = int(per_epoch * (self.epoch + self.block / len(self.blocks)))
        with Progress(per_epoch * epochs, done, verbose=verbose) as progress:
            while self.epoch < epochs:
                if self.block == 0:
                    self.model.reset_state()
                while self.block < len(self.blocks):
                    tokens, loss = self._take_step()
                    progress.advance(tokens, f"loss {loss:.3f}")
                    if on_step:
                        on_step(tokens, loss)
                    if stop and stop():
                        self._require_finite_weights()
                        raise TrainingInterrupted(f"stopped after step {self.step}")
                record, improved = self._end_epoch()
                progress.line(self._epoch_line(record, epochs))
                if on_epoch:
                    on_epoch(record, improved)

    def _take_step(self) -> tuple[int, float]:
        started = time.perf_counter()
        xs, ts = self.blocks[self.block]
        loss = take_step(
            self.model, self.optimizer, xs, ts, max_grad=self.max_grad, where=self._place
        )
        tokens = _counted(ts)
        self.block += 1
        self.step += 1
        self._loss_sum += loss * tokens
        self._tokens += tokens
        self._seconds += time.perf_counter() - started
        if self.block < len(self.blocks) and self.block % self.record_every == 0:
            self._end_record(None)
        return tokens, loss

    def _place(self) -> str:
        """Which step is next."""
        return (
            f"at step {self.step + 1} (epoch {self.epoch + 1}, block {self.block + 1} of "
            f"{len(self.blocks)})"
        )

    def _epoch_line(self, record: Record, epochs: int) -> str:
        assert record.valid_loss is not None
        return (
            f"epoch {self.epoch}/{epochs}: training {record.train_loss:.4f} at its end, "
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
        with np.errstate(all="ignore"):  # as in a step
            valid_loss = evaluate(
                self.model, self.valid_ids, batch_size=self.batch_size, time_size=self.time_size
            )
        self.epoch += 1
        self.block = 0
        record = self._end_record(valid_loss)
        improved = valid_loss < self.best_loss
        if improved:
            self.best_loss = valid_loss
        else:
            self.optimizer.lr *= self.lr_decay
        return record, improved

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

        The arrays are those of the model and the optimizer themselves, not copies.
        """
        arrays = checkpoint.arrays_of(self.model, self.optimizer, carried=self.block > 0)
        position = {
            "epoch": self.epoch,
            "block": self.block,
            "step": self.step,
            "lr": self.optimizer.lr,
            "optimizer_steps": self.optimizer.steps,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "record": [self._loss_sum, self._tokens, self._seconds],
            "history": [asdict(record) for record in self.history],
            "carried": [name for name in arrays if name.startswith("carried/")],
            "random_state": self.model.random_state(),
        }
        return arrays, position

    def restore(self, arrays: Mapping[str, Array], position: Mapping[str, Any]) -> None:
        """Take the place of the trainer whose `state` this is; everything is copied.

        Raises InputError, KeyError for what is missing, or ValueError where the layers' generators
        are of another kind; nothing has changed then.
        """
        number = checkpoint.number
        epoch, block, step = (
            number(key, position[key], least=0, whole=True) for key in ("epoch", "block", "step")
        )
        if block > len(self.blocks):
            raise InputError(f"block: expected at most {len(self.blocks)}, got {block}")
        lr, best = number("lr", position["lr"], least=0), position["best_loss"]
        best_loss = math.inf if best is None else number("best_loss", best)
        loss_sum, tokens, seconds = (number("record", value) for value in position["record"])
        history = [_as_record(line) for line in position["history"]]
        checkpoint.restore(
            self.model,
            self.optimizer,
            arrays,
            steps=number("optimizer_steps", position["optimizer_steps"], least=0, whole=True),
            carried=position["carried"],
            rows=self.batch_size,
            random_state=position["random_state"],
        )
        self.epoch, self.block, self.step = epoch, block, step
        self.optimizer.lr, self.best_loss, self.history = lr, best_loss, history
        self._loss_sum, self._tokens, self._seconds = loss_sum, tokens, seconds


def _as_record(line: Any) -> Record:
    """A line of a saved history."""
    record = Record(**line)
    for name, value in asdict(record).items():
        if value is not None or not name.startswith("valid"):
            checkpoint.number(name, value, finite=False)
    return record


def perplexity(loss: float) -> float:
    """e^loss, and inf where that is beyond a float."""
    return math.exp(loss) if loss < 700 else math.inf


def loss_text(loss: float, unit: str) -> str:
    """A loss in nats, and what else it is called; `unit` is what a token is."""
    return (
        f"{loss:.4f} nats (perplexity {perplexity(loss):.3f}, "
        f"{loss / math.log(2):.4f} bits per {unit})"
    )


def _counted(targets: Ids) -> int:
    return int((targets != PADDING).sum())
