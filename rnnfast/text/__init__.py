"""Texts and pairs of them, vocabularies, lanes for training, and sampling."""

from .corpora import builtin_corpus, load_text
from .lanes import lanes, split_by_position, unigram_entropy
from .pairs import addition_pairs, date_pairs
from .sampling import generate
from .vocabulary import Vocabulary

__all__ = [
    "Vocabulary",
    "addition_pairs",
    "builtin_corpus",
    "date_pairs",
    "generate",
    "lanes",
    "load_text",
    "split_by_position",
    "unigram_entropy",
]
