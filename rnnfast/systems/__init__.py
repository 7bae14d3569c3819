"""Five systems that others described in notebooks, each a thin composition of the layers here.

=================  ===================  ==========================================================
notebook           file                 what it is
=================  ===================  ==========================================================
000                perplexity_rnnlm     word model with the mean of 1/p as its loss
001                char_rnn             character RNN with a published table of its gradients
002                word_training        the textbook's training loop, on any file of words
003                sequence_regressor   sequences of numbers: fit, predict, forecast
004                char_lstm            character LSTM with one weight matrix for each gate
=================  ===================  ==========================================================

`rnnfast reproduce` runs all five and compares their numbers with published or reference ones.
"""

from .char_lstm import CharLstm, pack_gates, unpack_gates
from .char_rnn import CharRnn
from .perplexity_rnnlm import PerplexityRnnlm, cyclic_batch
from .sequence_regressor import SequenceRegressor
from .word_training import WordRun, train_word_file, train_words

__all__ = [
    "CharLstm",
    "CharRnn",
    "PerplexityRnnlm",
    "SequenceRegressor",
    "WordRun",
    "cyclic_batch",
    "pack_gates",
    "train_word_file",
    "train_words",
    "unpack_gates",
]
