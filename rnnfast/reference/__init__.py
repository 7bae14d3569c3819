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

from typing import TYPE_CHECKING, Any

from . import ops

if TYPE_CHECKING:
    from .layers import (
        GRU,
        LSTM,
        RNN,
        Attention,
        TimeAffine,
        TimeAffineWithLoss,
        TimeBiGRU,
        TimeBiLSTM,
        TimeBiRNN,
        TimeDropout,
        TimeEmbedding,
        TimeGRU,
        TimeLSTM,
        TimePerplexityLoss,
        TimeRNN,
        TimeSigmoidWithLoss,
        TimeSoftmax,
        TimeSoftmaxWithLoss,
        TimeSquaredLoss,
        TimeStack,
    )

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
    "ops",
]


def __getattr__(name: str) -> Any:
    """The layers stand above the functions in `ops`, and so are imported when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import layers

    return getattr(layers, name)
