"""Networks of layers, and the language models."""

from .language_models import LANGUAGE_MODELS, GruRnnlm, Rnnlm, SimpleRnnlm
from .network import Network

__all__ = ["LANGUAGE_MODELS", "GruRnnlm", "Network", "Rnnlm", "SimpleRnnlm"]
