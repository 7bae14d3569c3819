"""Weights from and for other libraries, none of which is imported before it is asked for."""

from .keras import from_keras, to_keras
from .onnx import from_onnx, to_onnx
from .torch import from_torch, to_torch

__all__ = ["from_keras", "from_onnx", "from_torch", "to_keras", "to_onnx", "to_torch"]
