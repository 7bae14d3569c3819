"""rnnfast: recurrent networks that train fast on a CPU, every compiled layer checked.

Layers and losses have the interface of the textbook "Deep Learning from Scratch 2"; every public
name can be imported from here. `rnnfast.reference` has the same layers in NumPy alone.
"""

from ._version import __version__
from .errors import InputError, TrainingDiverged, TrainingInterrupted
from .info import build_info
from .layers import (
    GRU,
    LSTM,
    RNN,
    Attention,
    Layer,
    TimeAffine,
    TimeBiGRU,
    TimeBiLSTM,
    TimeBiRNN,
    TimeDropout,
    TimeEmbedding,
    TimeGRU,
    TimeLSTM,
    TimeRNN,
    TimeStack,
)
from .losses import (
    TimeAffineWithLoss,
    TimePerplexityLoss,
    TimeSigmoidWithLoss,
    TimeSoftmax,
    TimeSoftmaxWithLoss,
    TimeSquaredLoss,
)
from .models import GruRnnlm, Network, Rnnlm, SimpleRnnlm
from .systems import (
    CharLstm,
    CharRnn,
    PerplexityRnnlm,
    SequenceRegressor,
    WordRun,
    cyclic_batch,
    pack_gates,
    train_word_file,
    train_words,
    unpack_gates,
)
from .text import (
    Vocabulary,
    builtin_corpus,
    generate,
    lanes,
    load_text,
    split_by_position,
    unigram_entropy,
)
from .threads import get_num_threads, set_num_threads
from .training import (
    SGD,
    AdaGrad,
    Adam,
    Momentum,
    RMSprop,
    Run,
    Settings,
    Trainer,
    clip_grads,
    evaluate,
)

from . import reference  # isort: skip  (it is made of the layers above)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "AdaGrad",
    "Adam",
    "Attention",
    "CharLstm",
    "CharRnn",
    "GruRnnlm",
    "InputError",
    "Layer",
    "Momentum",
    "Network",
    "PerplexityRnnlm",
    "RMSprop",
    "Rnnlm",
    "Run",
    "SequenceRegressor",
    "Settings",
    "SimpleRnnlm",
    "TimeAffine",
    "TimeAffineWithLoss",
    "TimeBiGRU",
    "TimeBiLSTM",
    "TimeBiRNN",
    "TimeDropout",
    "TimeEmbedding",
    "TimeGRU",
    "TimeLSTM",
    "TimePerplexityLoss",
    "TimeRNN",
    "TimeSigmoidWithLoss",
    "TimeSoftmax",
    "TimeSoftmaxWithLoss",
    "TimeSquaredLoss",
    "TimeStack",
    "Trainer",
    "TrainingDiverged",
    "TrainingInterrupted",
    "Vocabulary",
    "WordRun",
    "__version__",
    "build_info",
    "builtin_corpus",
    "clip_grads",
    "cyclic_batch",
    "evaluate",
    "generate",
    "get_num_threads",
    "lanes",
    "load_text",
    "pack_gates",
    "reference",
    "set_num_threads",
    "split_by_position",
    "train_word_file",
    "train_words",
    "unigram_entropy",
    "unpack_gates",
]
