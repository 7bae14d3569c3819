"""Learning-rate schedules: what the optimizer's `lr` is, step by step and epoch by epoch."""

import math
from dataclasses import dataclass

from .._checks import as_above_zero, as_count, is_number
from ..errors import InputError


class Schedule:
    """What a `Trainer` asks for the learning rate. This one leaves it as it is.

    A schedule of one's own overrides one method, or both. What they return should follow from
    their arguments alone: then a training that is carried on from a checkpoint is the same, and
    one object may serve several trainers.

    Examples
    --------
    >>> import rnnfast
    >>> class Exponential(rnnfast.Schedule):
    ...     def after_epoch(self, lr, *, epochs_since_best):
    ...         return 0.9 * lr
    >>> Exponential().after_epoch(1.0, epochs_since_best=0)
    0.9
    """

    def before_step(
        self, lr: float, *, peak: float, step: int, per_epoch: int, epochs: int
    ) -> float:
        """Learning rate of the step that is next, where it was `lr` in the one before.

        Parameters
        ----------
        lr : float
        peak : float, keyword-only (like all that follow)
            What the trainer was made with.
        step : int
            Steps done: 0 before the first one.
        per_epoch, epochs : int
            Steps in an epoch, and the epochs that `fit` goes to, those of calls before included.
        """
        return lr

    def after_epoch(self, lr: float, *, epochs_since_best: int) -> float:
        """Learning rate after an epoch that ended with `lr`; 0 epochs are since the best one if
        that is this one."""
        return lr


class ConstantLR(Schedule):
    """The learning rate stays as it is."""


@dataclass(frozen=True)
class ReduceLROnPlateau(Schedule):
    """Multiplies the learning rate by `factor` after `patience` epochs in a row without a better
    validation loss, and again after as many more. The textbook's has the factor 0.25.

    Parameters
    ----------
    factor : float above 0 and below 1
    patience : int
        1 is every such epoch. (So counts Keras; PyTorch's `patience` is one less.)
    min_lr : float
        No lower than this.
    """

    factor: float = 0.5
    patience: int = 1
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        if not (is_number(self.factor) and 0 < self.factor < 1):
            raise ValueError(
                f"factor: expected a number above 0 and below 1, got {self.factor!r}; "
                "ConstantLR() leaves the learning rate as it is"
            )
        as_count("patience", self.patience)
        if self.min_lr != 0:
            as_above_zero("min_lr", self.min_lr)

    def after_epoch(self, lr: float, *, epochs_since_best: int) -> float:
        if epochs_since_best == 0 or epochs_since_best % self.patience:
            return lr
        return max(lr * self.factor, min(lr, self.min_lr))


@dataclass(frozen=True, kw_only=True)
class CosineLR(Schedule):
    """Rises from almost 0 to the learning rate that the trainer was made with, its peak, and falls
    along half a cosine (Loshchilov and Hutter 2017; the rise is that of Goyal et al. 2017).

    With W steps of warm-up among S steps, step t = 0, 1 ... S-1 has

        peak (t + 1) / (W + 1)                                              where t < W
        peak (final + (1 - final) (1 + cos(pi (t - W) / (S - W))) / 2)      from then on

    and whatever comes later, peak * final. It depends on t and S alone. So the `lr` of the
    optimizer is that of the trainer's `peak_lr`, and is set before every step: set `peak_lr`, if
    anything.

    Parameters
    ----------
    warmup : int or float, keyword-only (like all that follow)
        Steps of the optimizer; a float, at least 0 and below 1, is a part of the whole.
    final : float, at least 0 and at most 1
        What is left at the end, as a part of the peak. With 1, it stays at the peak.
    epochs : int or None
        How long the whole is, in epochs of the trainer. None is what `fit` goes to; when a later
        call goes further, it carries on along the longer curve, which is higher at that step.
    """

    warmup: int | float = 0
    final: float = 0.0
    epochs: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.warmup, float):
            as_count("warmup", self.warmup, least=0, hint="a float is a part of the whole")
        elif not 0 <= self.warmup < 1:
            raise ValueError(
                f"warmup: expected a part of the whole, at least 0 and below 1, got {self.warmup}; "
                "a number of steps is an int"
            )
        if not (is_number(self.final) and 0 <= self.final <= 1):
            raise ValueError(f"final: expected a number in 0 <= final <= 1, got {self.final!r}")
        if self.epochs is not None:
            as_count("epochs", self.epochs, hint="None is what fit goes to")

    def before_step(
        self, lr: float, *, peak: float, step: int, per_epoch: int, epochs: int
    ) -> float:
        steps = per_epoch * (epochs if self.epochs is None else self.epochs)
        warmup = int(self.warmup * steps) if isinstance(self.warmup, float) else self.warmup
        if warmup >= steps:
            raise InputError(
                f"warmup: expected fewer than the {steps:,} steps of the whole, got {warmup:,}; "
                "train for more epochs, or give a part of the whole, such as 0.1"
            )
        if step < warmup:
            return peak * (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / (steps - warmup))
        return peak * (self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2)
