"""Texts, vocabularies, lanes for training, sampling and scoring."""

from .corpora import builtin_corpus, load_text
from .lanes import lanes, split_by_position, unigram_entropy
from .sampling import generate, stream
from .scoring import log_probabilities
from .vocabulary import Vocabulary

__all__ = [
    "Vocabulary",
    "builtin_corpus",
    "generate",
    "lanes",
    "load_text",
    "log_probabilities",
    "split_by_position",
    "stream",
    "unigram_entropy",
]
