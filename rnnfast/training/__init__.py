"""Training: optimizers, the trainer, and runs, which are folders."""

from .optimizers import SGD, AdaGrad, Adam, Momentum, RMSprop, clip_grads
from .runs import Run
from .schedules import ConstantLR, CosineLR, ReduceLROnPlateau, Schedule
from .settings import Settings
from .trainer import Callback, Trainer, evaluate

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
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
    "evaluate",
]
