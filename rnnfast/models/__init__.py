"""Networks of layers, and the language models."""

from .language_models import LANGUAGE_MODELS, Rnnlm, SimpleRnnlm
from .network import Network

__all__ = ["LANGUAGE_MODELS", "Network", "Rnnlm", "SimpleRnnlm"]
