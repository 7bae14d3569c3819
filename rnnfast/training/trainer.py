"""Training by truncated BPTT: epochs over parallel lanes, state carried from block to block."""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np

from .._checks import as_count
from ..errors import InputError, TrainingDiverged, TrainingInterrupted
from ..text.lanes import PADDING, lanes
from .optimizers import clip_grads


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


def evaluate(model, ids, *, batch_size=32, time_size=64):
    """Mean cross entropy of a text in nats per token; the model's carried state is untouched.

    The text is read in `batch_size` parallel lanes, each starting from zeros (fewer where lanes
    would be shorter than `time_size`). Every token but the first counts once.
    """
    if len(ids) < 2:
        raise InputError(f"the text has {len(ids)} tokens, but at least 2 are needed to evaluate")
    batch_size, time_size = as_count("batch_size", batch_size), as_count("time_size", time_size)
    batch_size = max(1, min(batch_size, len(ids) // time_size))
    carried = model.get_state()
    model.reset_state()
    total = count = 0
    try:
        for xs, ts in _blocks(*lanes(ids, batch_size), time_size):
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
    model, optimizer : as in `rnnfast.models` and `rnnfast.optimizers`
    train_ids, valid_ids : int arrays (M,)
    batch_size, time_size : int
        N lanes, and T tokens of each in a block: one step of the optimizer.
    max_grad : float or None
        Norm at which the gradients are clipped.
    lr_decay : float
        What the learning rate is multiplied by after an epoch that did not improve validation.
    records_per_epoch : int
        Lines of the history in an epoch.

    Attributes
    ----------
    epoch, step : whole epochs and optimizer steps done
    best_loss : lowest validation loss so far, in nats per token
    history : list of Record
    """

    def __init__(
        self,
        model,
        optimizer,
        train_ids,
        valid_ids,
        *,
        batch_size=32,
        time_size=64,
        max_grad=1.0,
        lr_decay=0.5,
        records_per_epoch=10,
    ):
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
        self.max_grad, self.lr_decay = max_grad, lr_decay
        self.blocks = list(_blocks(*lanes(train_ids, batch_size), time_size))
        self.record_every = max(1, len(self.blocks) // records_per_epoch)
        self.epoch = self.step = self.block = 0
        self.best_loss = math.inf
        self.history = []
        self._begin_record()

    @property
    def tokens_per_epoch(self):
        return sum(_counted(ts) for _, ts in self.blocks)

    def fit(self, epochs, *, on_step=None, on_epoch=None, stop=None):
        """Train until `epochs` epochs are done in all.

        on_step(tokens, loss) is called after every step; on_epoch(record, improved) after every
        epoch; stop() is asked after every step whether to stop there.

        Raises
        ------
        TrainingDiverged
            When a loss or a gradient is not finite: nothing is updated with it. When the weights
            are not, at the end of an epoch or where stop() said so.
        TrainingInterrupted
            When stop() said so. Calling `fit` again carries on.
        """
        while self.epoch < epochs:
            if self.block == 0:
                self.model.reset_state()
            while self.block < len(self.blocks):
                tokens, loss = self._take_step()
                if on_step:
                    on_step(tokens, loss)
                at_end = self.block == len(self.blocks)
                if not at_end and self.block % self.record_every == 0:
                    self._end_record(None)
                if stop and stop():
                    self._require_finite_weights()
                    raise TrainingInterrupted(f"stopped after step {self.step}")
            record, improved = self._end_epoch()
            if on_epoch:
                on_epoch(record, improved)

    def _take_step(self):
        started = time.perf_counter()
        xs, ts = self.blocks[self.block]
        loss = self.model.forward(xs, ts)
        self._require_finite(loss, "loss")
        self.model.backward()
        if self.max_grad is not None:
            norm = clip_grads(self.model.grads, self.max_grad)
            self._require_finite(norm, "norm of the gradient")
        self.optimizer.update(self.model.params, self.model.grads)
        tokens = _counted(ts)
        self.block += 1
        self.step += 1
        self._loss_sum += loss * tokens
        self._tokens += tokens
        self._seconds += time.perf_counter() - started
        return tokens, loss

    def _require_finite_weights(self):
        """The last update of an epoch may overflow, and no loss follows it that would tell."""
        if not all(np.isfinite(W).all() for W in self.model.params):
            raise TrainingDiverged(
                f"weights are not finite after step {self.step} (epoch {self.epoch + 1}); "
                "try a smaller learning rate"
            )

    def _require_finite(self, value, what):
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the {what} is {value} at step {self.step + 1} (epoch {self.epoch + 1}, block "
                f"{self.block + 1} of {len(self.blocks)}); try a smaller learning rate"
            )

    def _end_epoch(self):
        self._require_finite_weights()
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

    def _begin_record(self):
        self._loss_sum, self._tokens, self._seconds = 0.0, 0, 0.0

    def _end_record(self, valid_loss):
        known = valid_loss is not None
        record = Record(
            epoch=self.epoch + self.block / len(self.blocks),
            step=self.step,
            lr=self.optimizer.lr,
            train_loss=self._loss_sum / max(1, self._tokens),
            valid_loss=valid_loss,
            valid_perplexity=perplexity(valid_loss) if known else None,
            valid_bits_per_token=valid_loss / math.log(2) if known else None,
            tokens_per_second=self._tokens / max(self._seconds, 1e-9),
        )
        self.history.append(record)
        self._begin_record()
        return record

    def state(self):
        """Everything that `restore` needs to carry on bit for bit: (arrays by name, JSON dict)."""
        arrays = {f"param/{k}": W for k, W in enumerate(self.model.params)}
        for k, slots in enumerate(self.optimizer.state):
            arrays |= {f"optimizer/{k}/{slot}": array for slot, array in enumerate(slots)}
        for k, states in enumerate(self.model.get_state()):
            arrays |= {f"carried/{k}/{s}": h for s, h in enumerate(states) if h is not None}
        position = {
            "epoch": self.epoch,
            "block": self.block,
            "step": self.step,
            "lr": self.optimizer.lr,
            "optimizer_steps": self.optimizer.steps,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "record": [self._loss_sum, self._tokens, self._seconds],
            "history": [asdict(record) for record in self.history],
        }
        return arrays, position

    def restore(self, arrays, position):
        """Take the place of the trainer whose `state` this is."""
        restore_params(self.model, arrays)
        for key, most in (("epoch", None), ("block", len(self.blocks)), ("step", None)):
            value = position[key]
            if type(value) is not int or value < 0 or (most is not None and value > most):
                raise InputError(f"{key} of the checkpoint: {value!r} is none")
        self.optimizer.steps = position["optimizer_steps"]
        self.optimizer.state = [
            tuple(
                _fitting(arrays, f"optimizer/{k}/{slot}", W) for slot in range(self.optimizer.slots)
            )
            for k, W in enumerate(self.model.params if self.optimizer.steps else [])
        ]
        self.model.set_state(
            [arrays.get(f"carried/{k}/{s}") for s in range(len(states))]
            for k, states in enumerate(self.model.get_state())
        )
        self.epoch, self.block, self.step = (position[key] for key in ("epoch", "block", "step"))
        self.optimizer.lr = float(position["lr"])
        best = position["best_loss"]
        self.best_loss = math.inf if best is None else float(best)
        self._loss_sum, self._tokens, self._seconds = position["record"]
        self.history = [Record(**line) for line in position["history"]]


def restore_params(model, arrays):
    """Put the weights of `Trainer.state` into a model of the same sizes."""
    for k, W in enumerate(model.params):
        W[...] = _fitting(arrays, f"param/{k}", W)


def _fitting(arrays, name, W):
    """An array of a checkpoint that has the shape and the dtype of W, and finite numbers."""
    saved = arrays[name]
    if saved.shape != W.shape or saved.dtype != W.dtype:
        raise InputError(
            f"{name} of the checkpoint: expected {W.dtype} {W.shape} as the model has, "
            f"got {saved.dtype} {saved.shape}"
        )
    if not np.isfinite(saved).all():
        raise InputError(f"{name} of the checkpoint: expected finite numbers, got NaN or infinity")
    return saved


def perplexity(loss):
    """e^loss, and inf where that is beyond a float."""
    return math.exp(loss) if loss < 700 else math.inf


def _blocks(inputs, targets, time_size):
    """Blocks of `time_size` columns of the lanes, the last one maybe shorter."""
    for start in range(0, inputs.shape[1], time_size):
        columns = slice(start, start + time_size)
        yield inputs[:, columns], targets[:, columns]


def _counted(targets):
    return int((targets != PADDING).sum())
