"""Networks of layers, the language models, and encoders with decoders."""

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
from .seq2seq import AttentionSeq2seq, PeekySeq2seq, Seq2seq

__all__ = [
    "LANGUAGE_MODELS",
    "LAYER_OF_CELL",
    "AttentionSeq2seq",
    "BetterRnnlm",
    "GruRnnlm",
    "LanguageModel",
    "Network",
    "PeekySeq2seq",
    "Rnnlm",
    "Seq2seq",
    "SimpleRnnlm",
]
