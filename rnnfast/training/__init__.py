"""Training: optimizers, the trainer, and runs, which are folders."""

from .optimizers import SGD, AdaGrad, Adam, Momentum, RMSprop, clip_grads
from .pairs import right_answers, train_pairs
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
    "clip_grads",
    "evaluate",
    "right_answers",
    "train_pairs",
]
