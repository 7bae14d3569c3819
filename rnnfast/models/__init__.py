"""Networks of layers, and the language models."""

from .language_models import (
    LANGUAGE_MODELS,
    LAYER_OF_CELL,
    BetterRnnlm,
    GruRnnlm,
    LanguageModel,
    Rnnlm,
    SimpleRnnlm,
)
from .network import Network

__all__ = [
    "LANGUAGE_MODELS",
    "LAYER_OF_CELL",
    "BetterRnnlm",
    "GruRnnlm",
    "LanguageModel",
    "Network",
    "Rnnlm",
    "SimpleRnnlm",
]
