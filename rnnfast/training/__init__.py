"""Training: optimizers, the trainer, and runs, which are folders."""

from .optimizers import SGD, AdaGrad, Adam, Momentum, RMSprop, clip_grads
from .pairs import answered, train_pairs
from .runs import Run, Settings
from .trainer import Trainer, evaluate

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "Momentum",
    "RMSprop",
    "Run",
    "Settings",
    "Trainer",
    "answered",
    "clip_grads",
    "evaluate",
    "train_pairs",
]
