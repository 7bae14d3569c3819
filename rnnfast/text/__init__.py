"""Texts, vocabularies, lanes for training, and sampling."""

from .corpora import builtin_corpus, load_text
from .lanes import lanes, split_by_position, unigram_entropy
from .sampling import generate
from .vocabulary import Vocabulary

__all__ = [
    "Vocabulary",
    "builtin_corpus",
    "generate",
    "lanes",
    "load_text",
    "split_by_position",
    "unigram_entropy",
]
