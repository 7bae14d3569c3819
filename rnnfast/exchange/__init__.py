"""Weights from and for other libraries, none of which is imported before it is asked for."""

from .keras import from_keras, to_keras
from .torch import from_torch, to_torch

__all__ = ["from_keras", "from_torch", "to_keras", "to_torch"]
