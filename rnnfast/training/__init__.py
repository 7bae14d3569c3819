"""Training: optimizers, the trainer, and runs, which are folders."""

from .optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, RMSprop, clip_grads, clip_values
from .runs import Run, Settings
from .trainer import Trainer, evaluate

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Momentum",
    "RMSprop",
    "Run",
    "Settings",
    "Trainer",
    "clip_grads",
    "clip_values",
    "evaluate",
]
