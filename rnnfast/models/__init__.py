"""Networks of layers, and the language models."""

from .language_models import Rnnlm, SimpleRnnlm
from .network import Network

__all__ = ["Network", "Rnnlm", "SimpleRnnlm"]
