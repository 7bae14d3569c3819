"""Layers with the interface of the textbook "Deep Learning from Scratch 2".

Every layer has `params` and `grads`, lists of arrays that keep their identity: `backward`
overwrites `grads` in place, and `params[i][...]` may be changed at any time. The dtype of the
weights, float32 or float64, is the dtype of the layer: inputs are converted to it, outputs have it.
Arrays may have any strides. Everything that the textbook does not have is keyword-only; `ops` is
where a layer takes its arithmetic from: the compiled `rnnfast.kernels`, or `rnnfast.reference.ops`,
which is the same in NumPy.

Letters in shapes: N batch rows, T time steps, D input size, H hidden size, V vocabulary size.
"""

from .affine import TimeAffine
from .attention import Attention
from .base import Layer
from .bidirectional import TimeBiGRU, TimeBiLSTM, TimeBiRNN
from .dropout import TimeDropout
from .embedding import TimeEmbedding
from .recurrent import TIME_LAYERS, TimeGRU, TimeLSTM, TimeRNN, time_layer
from .stack import TimeStack
from .steps import GRU, LSTM, RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "TIME_LAYERS",
    "Attention",
    "Layer",
    "TimeAffine",
    "TimeBiGRU",
    "TimeBiLSTM",
    "TimeBiRNN",
    "TimeDropout",
    "TimeEmbedding",
    "TimeGRU",
    "TimeLSTM",
    "TimeRNN",
    "TimeStack",
    "time_layer",
]
