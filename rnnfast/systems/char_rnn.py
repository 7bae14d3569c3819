"""Notebook 001: a character RNN, and the gradients that were published of it.

Letters: N batch rows, T time steps, H hidden size, V characters.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from .._checks import as_count, as_generator, check_shape
from .._ops import Ops
from .._types import Array, ArrayLike
from ..layers import RNN, TimeAffine, TimeRNN
from ..losses import TimeSoftmaxWithLoss
from ..models.saving import known
from ._shared import Named, NamedNetwork, TimeOneHot, as_tokens, own_weights

SHAPES = {"Wxh": "VH", "Whh": "HH", "bh": "H", "Why": "HV", "by": "V"}


@known
class CharRnn(NamedNetwork):
    """h_t = tanh(x_t Wxh + h_{t-1} Whh + bh) on one-hot characters, logits h_t Why + by.

    The loss is the mean cross entropy of the softmax over all positions, in nats.

    Parameters
    ----------
    weights : dict of arrays Wxh (V, H), Whh (H, H), Why (H, V), bh (1, H), by (1, V)
        Initial weights, all float32 or all float64; they are copied. Biases may be (H,), (V,).
    truncate_size, stateful : keyword-only, as in `TimeRNN`
        By default the gradient flows through the whole block, and each block starts from zeros.
    ops : module with the arithmetic, see `rnnfast.layers`

    Attributes
    ----------
    weights, gradients : dicts of arrays by these names
    params, grads : the same as lists

    Raises
    ------
    TypeError, ValueError
        Where weights, inputs or targets do not fit; here and in all methods.

    Examples
    --------
    The first sample of the notebook, with its seed, and three rows of its table:

    >>> import rnnfast
    >>> text = "I am learning RNN"
    >>> ids = rnnfast.Vocabulary.from_text(text).encode(text)
    >>> model = rnnfast.CharRnn.seeded(12, 4, dtype="float64")
    >>> round(model.forward(ids[0:3], ids[1:4]), 12)
    2.002715756513
    >>> model.backward()["Why"].shape
    (4, 12)
    >>> print(model.published_gradients(ids[0:3], ids[1:4])["Wxh"][[0, 1, 4]])
    [[-5.8980067e-03 -1.0567507e-03  5.3060856e-02  3.2835844e-01]
     [-2.1574606e-01 -4.6572205e-02 -1.2665960e-03 -2.1078084e-01]
     [ 2.6740572e-01 -2.2931943e-04 -1.3003336e-01  3.1455082e-03]]
    """

    vocab_size: int

    def __init__(
        self,
        weights: Mapping[str, ArrayLike],
        *,
        truncate_size: int | None = None,
        stateful: bool = False,
        ops: Ops | None = None,
    ) -> None:
        own = own_weights(weights, SHAPES)
        Wxh, Whh, bh, Why, by = own.values()
        self.vocab_size = len(Wxh)
        layers = {
            "input": TimeOneHot(self.vocab_size, Wxh.dtype),
            "recurrent": TimeRNN(
                Wxh, Whh, bh.reshape(-1), stateful, truncate_size=truncate_size, ops=ops
            ),
            "affine": TimeAffine(Why, by.reshape(-1), ops=ops),
        }
        super().__init__(layers, TimeSoftmaxWithLoss(ops=ops), own)

    @classmethod
    def seeded(
        cls,
        vocab_size: int,
        hidden_size: int,
        *,
        seed: int = 123,
        dtype: DTypeLike = np.float32,
        **options: Any,
    ) -> Self:
        """A model with the notebook's initial weights: standard normal numbers in float32, each
        matrix from the beginning of the same random stream; biases 0.

        seed : int of at least 0, which seeds a numpy.random.RandomState, the notebook's generator
        dtype : float32, or float64 with the same numbers
        """
        V, H = as_count("vocab_size", vocab_size), as_count("hidden_size", hidden_size)
        seed = as_count("seed", seed, least=0)

        def normal(*shape: int) -> Array:
            rng = as_generator(seed, "seed", legacy=True)
            return rng.standard_normal(shape).astype(np.float32)

        weights = {
            "Wxh": normal(V, H), "Whh": normal(H, H), "Why": normal(H, V),
            "bh": np.zeros((1, H)), "by": np.zeros((1, V)),
        }  # fmt: skip
        return cls({name: W.astype(dtype) for name, W in weights.items()}, **options)

    def forward(self, xs: ArrayLike, ts: ArrayLike, **options: Any) -> float:
        """Characters and those that follow -> mean cross entropy in nats, a float.

        xs, ts : ids (T,) or (N, T), or one-hot vectors (T, V) in floating point or (N, T, V)
        """
        V = self.vocab_size
        return super().forward(as_tokens("xs", xs, V), as_tokens("ts", ts, V), **options)

    def published_gradients(self, xs: ArrayLike, ts: ArrayLike) -> Named:
        """The gradients of one sample in the notebook's own arithmetic: dict of float32 arrays.

        There, every time step is computed in float64 from float32 weights, and its share is added
        to a sum in float32. The rounding of these sums is in the last digits of what it printed;
        `backward` has them a unit of the last digit better, or in float32 some units worse.

        xs, ts : ids (T,), or one-hot vectors (T, V) in floating point
        """
        V, ops = self.vocab_size, self.loss_layer.ops
        xs, ts = as_tokens("xs", xs, V), as_tokens("ts", ts, V)
        check_shape("xs", xs, (1, "T"), "give one sample")
        check_shape("ts", ts, xs.shape, "every character has one that follows")
        xs = np.eye(V)[xs]
        W = {name: W.astype(np.float32).astype(np.float64) for name, W in self.weights.items()}
        sums = {name: np.zeros(W[name].shape, np.float32) for name in W}
        cells, hs = [], [np.zeros((len(xs), len(W["Whh"])))]
        for t in range(xs.shape[1]):
            cells.append(RNN(W["Wxh"], W["Whh"], W["bh"].reshape(-1), ops=ops))
            hs.append(cells[t].forward(xs[:, t], hs[t]))
        dh, loss_layer = np.zeros_like(hs[0]), TimeSoftmaxWithLoss(ops=ops)
        for t in reversed(range(xs.shape[1])):
            logits = hs[t + 1] @ W["Why"] + W["by"].reshape(-1)
            loss_layer.forward(logits[None], ts[:, t : t + 1])
            (dlogits,) = loss_layer.backward()
            _, dh = cells[t].backward(dlogits @ W["Why"].T + dh)
            shares = (*cells[t].grads, hs[t + 1].T @ dlogits, dlogits)
            for name, share in zip(SHAPES, shares, strict=True):
                sums[name] += share.reshape(sums[name].shape)
        return {name: total / np.float32(xs.shape[1]) for name, total in sums.items()}
