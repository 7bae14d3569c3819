"""What a run is made of: the options of `rnnfast train`."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._checks import as_above_zero, as_bool, as_count, as_fraction, as_precision, as_real
from .._types import Precision
from ..errors import InputError
from ..layers.initial import INITS
from ..models.language_models import LAYER_OF_CELL
from ..text.vocabulary import LEVELS
from .optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, RMSprop
from .schedules import ConstantLR, CosineLR, ReduceLROnPlateau, Schedule

OPTIMIZERS: dict[str, Any] = {
    "sgd": SGD,
    "momentum": Momentum,
    "adagrad": AdaGrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
}
LEARNING_RATES = {
    **{"sgd": 1.0, "momentum": 0.1, "adagrad": 0.05},
    **{"rmsprop": 0.003, "adam": 0.008, "adamw": 0.008},
}
DTYPES = ("float32", "float64")
DECAYING = ("sgd", "momentum", "adamw")  # optimizers that have a weight decay
SCHEDULES: dict[str, Callable[[int], Schedule]] = {  # by how many epochs there are
    "constant": lambda epochs: ConstantLR(),
    "cosine": lambda epochs: CosineLR(warmup=0.02, epochs=epochs),
    "plateau": lambda epochs: ReduceLROnPlateau(0.5),
    "textbook": lambda epochs: ReduceLROnPlateau(0.25),
}
OF_MODEL = (  # settings that are keyword arguments of LanguageModel
    *("cell", "embedding", "hidden", "layers", "tie_weights", "dtype", "init"),
    *("dropout", "locked", "weight_drop", "zoneout", "precision"),
)
OF_TRAINER = (  # and of Trainer
    *("window", "accumulate", "max_grad", "max_value", "average", "patience"),
)
COUNTS = ("hidden", "embedding", "layers", "batch", "time", "accumulate", "epochs")
MOST = 10**9  # of all counts: what is made of some of them must fit into a machine's numbers
MOST_LR = 1e100  # a schedule multiplies it by the number of a step
# of runs that were saved before there was a choice
BEFORE = {"dropout": 0.0, "init": "textbook", "schedule": "plateau", "patience": None}


@dataclass
class Settings:
    """What a run is made of.

    `text` is a path, or None for the built-in corpus; `level` is what a token is, "char" or "word".
    `batch`, `time`, `window`, `accumulate`, `max_grad`, `max_value`, `average` and `patience` are
    those of `Trainer`, where the first two are called batch_size and time_size. `lr`, 1e100 at
    most, and `weight_decay` None are what suits the optimizer; the latter is of "sgd", "momentum"
    and "adamw" alone. `schedule` is "constant", "cosine", which after a short warm-up falls to 0 at
    the end of the last of the `epochs`, "plateau", which halves the learning rate after an epoch
    that did not improve validation, or "textbook", which divides it by 4. `precision` "bfloat16"
    rounds operands of products; None, or the name of the dtype, does not. Others are those of
    `LanguageModel`.
    """

    text: str | os.PathLike[str] | None = None
    level: str = "char"
    cell: str = "lstm"
    hidden: int = 384
    embedding: int = 64
    layers: int = 1
    tie_weights: bool = False
    dropout: float = 0.25
    locked: bool = False
    weight_drop: float = 0.0
    zoneout: float = 0.0
    dtype: str = "float32"
    init: str = "textbook"
    batch: int = 32
    time: int = 64
    window: int | None = None
    accumulate: int = 1
    epochs: int = 12
    patience: int | None = 3
    optimizer: str = "adam"
    lr: float | None = None
    schedule: str = "cosine"
    weight_decay: float | None = None
    max_grad: float | None = 1.0
    max_value: float | None = None
    average: float | None = None
    seed: int = 0
    precision: Precision | None = None

    def __post_init__(self) -> None:
        for name, choices in (
            ("level", LEVELS),
            ("cell", LAYER_OF_CELL),
            ("dtype", DTYPES),
            ("init", INITS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        ):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                raise InputError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
        try:
            for name in COUNTS:
                self._check(name, as_count)
            for name in ("window", "patience"):
                self._check(name, as_count, optional=True)
            self.seed = as_count("seed", self.seed, least=0)
            # None where it is the dtype: runs know it by one name
            self.precision = as_precision(self.precision, np.dtype(self.dtype))
            for name in ("tie_weights", "locked"):
                self._check(name, as_bool)
            for name in ("dropout", "weight_drop", "zoneout"):
                self._check(name, as_fraction)
            self._check("average", as_fraction, optional=True)
            for name in ("max_grad", "max_value"):
                self._check(name, as_above_zero, optional=True)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from error
        for name in (*COUNTS, "window", "patience"):
            if (getattr(self, name) or 0) > MOST:
                raise InputError(
                    f"{name}: expected a whole number of at most {MOST:,}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.text is not None:
            if not isinstance(self.text, (str, os.PathLike)):
                raise InputError(f"text: expected a path or None, got {self.text!r}")
            self.text = os.fspath(self.text)
        if self.lr is None:
            self.lr = LEARNING_RATES[self.optimizer]
        if not 0 < as_real(self.lr) <= MOST_LR:
            raise InputError(
                f"lr: expected a number above 0 and at most {MOST_LR:g}, or None, got {self.lr!r}"
            )
        self.lr = float(self.lr)
        decay = self.weight_decay
        if decay is not None:
            if not 0 <= as_real(decay) < math.inf:
                raise InputError(
                    f"weight_decay: expected a finite number of at least 0 or None, got {decay!r}"
                )
            if decay and self.optimizer not in DECAYING:
                raise InputError(
                    f"weight_decay: expected None with the optimizer {self.optimizer}, got "
                    f"{decay!r}; take one of {', '.join(DECAYING)}"
                )
            self.weight_decay = float(decay)
        if self.tie_weights and self.embedding != self.hidden:
            raise InputError(
                f"tie_weights: expected embedding and hidden of one size, got {self.embedding} and "
                f"{self.hidden}; take the same number for both"
            )
        if self.locked and not self.dropout:
            raise InputError(
                "locked: expected a dropout above 0, got 0; give a dropout, or leave locked out"
            )
        if self.window is not None and self.window % self.time:
            raise InputError(
                f"window: expected a multiple of time ({self.time}), got {self.window}; "
                f"take {-(-self.window // self.time) * self.time}"
            )

    def _check(self, name: str, check: Any, *, optional: bool = False) -> None:
        value = getattr(self, name)
        if not (optional and value is None):
            setattr(self, name, check(name, value))

    @property
    def of_model(self) -> dict[str, Any]:
        """Keyword arguments of `LanguageModel`."""
        return {name: getattr(self, name) for name in OF_MODEL}

    @property
    def of_trainer(self) -> dict[str, Any]:
        """Keyword arguments of `Trainer`."""
        return {
            **{name: getattr(self, name) for name in OF_TRAINER},
            "batch_size": self.batch,
            "time_size": self.time,
            "schedule": self.new_schedule(),
        }

    def new_schedule(self) -> Schedule:
        """The schedule of the learning rate."""
        return SCHEDULES[self.schedule](self.epochs)

    def new_optimizer(self) -> Any:
        """The optimizer, before its first step."""
        own = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        return OPTIMIZERS[self.optimizer](self.lr, **(own if self.optimizer in DECAYING else {}))
