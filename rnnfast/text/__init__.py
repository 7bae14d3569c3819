"""Texts and pairs of them, vocabularies, lanes for training, sampling and scoring."""

from .corpora import builtin_corpus, load_text
from .lanes import lanes, split_by_position, unigram_entropy
from .pairs import addition_pairs, date_pairs
from .sampling import generate, stream
from .scoring import log_probabilities
from .vocabulary import Vocabulary

__all__ = [
    "Vocabulary",
    "addition_pairs",
    "builtin_corpus",
    "date_pairs",
    "generate",
    "lanes",
    "load_text",
    "log_probabilities",
    "split_by_position",
    "stream",
    "unigram_entropy",
]
