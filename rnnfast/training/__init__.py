"""Training: optimizers, the trainer, and runs, which are folders."""

from .optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, RMSprop, clip_grads, clip_values
from .pairs import right_answers, train_pairs
from .runs import Run
from .schedules import ConstantLR, CosineLR, ReduceLROnPlateau, Schedule
from .settings import Settings
from .trainer import Callback, Trainer, evaluate

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Callback",
    "ConstantLR",
    "CosineLR",
    "Momentum",
    "RMSprop",
    "ReduceLROnPlateau",
    "Run",
    "Schedule",
    "Settings",
    "Trainer",
    "clip_grads",
    "clip_values",
    "evaluate",
    "right_answers",
    "train_pairs",
]
