"""The NumPy twin of every layer and loss: same names, same signatures, no compiled code at work.

Use it to check the compiled layers, or to read what they compute: the formulas are in
`rnnfast.reference.ops`, step by step.

>>> import numpy as np, rnnfast
>>> rng = np.random.default_rng(0)
>>> weights = rng.normal(size=(3, 8)), rng.normal(size=(2, 8)), np.zeros(8)
>>> xs = rng.normal(size=(4, 5, 3))
>>> fast, slow = rnnfast.TimeLSTM(*weights), rnnfast.reference.TimeLSTM(*weights)
>>> bool(np.allclose(fast.forward(xs), slow.forward(xs), rtol=1e-12, atol=0))
True
"""

import functools

from .. import layers, losses
from . import ops


def _twin(layer):
    """The class `layer`, whose objects compute with NumPy unless told otherwise."""

    class Twin(layer):
        @functools.wraps(layer.__init__)
        def __init__(self, *args, ops=ops, **options):
            super().__init__(*args, ops=ops, **options)

    Twin.__name__ = Twin.__qualname__ = layer.__name__
    Twin.__doc__ = f"`rnnfast.{layer.__name__}` in NumPy alone.\n\n{layer.__doc__}"
    return Twin


RNN = _twin(layers.RNN)
LSTM = _twin(layers.LSTM)
TimeRNN = _twin(layers.TimeRNN)
TimeLSTM = _twin(layers.TimeLSTM)
TimeEmbedding = _twin(layers.TimeEmbedding)
TimeAffine = _twin(layers.TimeAffine)
TimeAffineWithLoss = _twin(losses.TimeAffineWithLoss)
TimeSoftmaxWithLoss = _twin(losses.TimeSoftmaxWithLoss)
# NumPy already
TimeSoftmax = losses.TimeSoftmax
TimePerplexityLoss = losses.TimePerplexityLoss
TimeSquaredLoss = losses.TimeSquaredLoss

__all__ = [
    "LSTM",
    "RNN",
    "TimeAffine",
    "TimeAffineWithLoss",
    "TimeEmbedding",
    "TimeLSTM",
    "TimePerplexityLoss",
    "TimeRNN",
    "TimeSoftmax",
    "TimeSoftmaxWithLoss",
    "TimeSquaredLoss",
    "ops",
]
