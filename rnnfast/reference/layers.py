"""The layers and losses that compute with NumPy unless told otherwise: twins of the same name."""

from .. import layers, losses
from ..losses import TimePerplexityLoss, TimeSoftmax, TimeSquaredLoss
from . import ops


class RNN(layers.RNN):
    default_ops = ops


class LSTM(layers.LSTM):
    default_ops = ops


class GRU(layers.GRU):
    default_ops = ops


class TimeRNN(layers.TimeRNN):
    default_ops = ops


class TimeLSTM(layers.TimeLSTM):
    default_ops = ops


class TimeGRU(layers.TimeGRU):
    default_ops = ops


class TimeBiRNN(layers.TimeBiRNN):
    default_ops = ops


class TimeBiLSTM(layers.TimeBiLSTM):
    default_ops = ops


class TimeBiGRU(layers.TimeBiGRU):
    default_ops = ops


class TimeStack(layers.TimeStack):
    default_ops = ops


class TimeEmbedding(layers.TimeEmbedding):
    default_ops = ops


class TimeAffine(layers.TimeAffine):
    default_ops = ops


class TimeDropout(layers.TimeDropout):
    default_ops = ops


class Attention(layers.Attention):
    default_ops = ops


class TimeAffineWithLoss(losses.TimeAffineWithLoss):
    default_ops = ops


class TimeSigmoidWithLoss(losses.TimeSigmoidWithLoss):
    default_ops = ops


class TimeSoftmaxWithLoss(losses.TimeSoftmaxWithLoss):
    default_ops = ops


__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Attention",
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
]
