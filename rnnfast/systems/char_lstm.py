"""Notebook 004: a character LSTM whose gates are matrices on z = [h; x].

Letters: N batch rows, T time steps, H hidden size, V characters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from .._checks import as_count, as_ids, as_weights, check_shape, normal_numbers
from .._ops import Ops
from .._types import Array, ArrayLike, Ids, Seed, Shape
from ..cells import LSTM
from ..layers import TimeAffine, TimeLSTM
from ..losses import TimeSoftmaxWithLoss
from ..models.saving import known
from ..text.sampling import generate
from ..text.vocabulary import check_length
from ..training.optimizers import SGD
from ..training.steps import take_step
from ._shared import (
    Named,
    NamedNetwork,
    TimeOneHot,
    as_tokens,
    own_weights,
)

GATES = ["C" if gate == "g" else gate for gate in LSTM.gates]  # in the order of the columns
GATE_SHAPES = {f"W_{gate}": "HZ" for gate in GATES} | {f"b_{gate}": "H" for gate in GATES}
SHAPES = {"W_v": "VH", "b_v": "V"} | GATE_SHAPES


def pack_gates(gates: Mapping[str, ArrayLike]) -> tuple[Array, Array, Array]:
    """Per-gate weights, or gradients -> those of `TimeLSTM`: Wx (V, 4H), Wh (H, 4H), b (4H,).

    gates : dict of W_f, W_i, W_C, W_o (H, H+V), on z = [h; x], and b_f, b_i, b_C, b_o (H, 1);
        other names are left alone
    """
    known = {name: W for name, W in gates.items() if name in GATE_SHAPES}
    own = own_weights(known, GATE_SHAPES)
    H = len(own["W_f"])
    W = np.concatenate([own[f"W_{gate}"].T for gate in GATES], axis=1)
    b = np.concatenate([own[f"b_{gate}"].reshape(-1) for gate in GATES])
    return W[H:].copy(), W[:H].copy(), b


def unpack_gates(Wx: ArrayLike, Wh: ArrayLike, b: ArrayLike) -> Named:
    """The inverse of `pack_gates`: a dict of new arrays."""
    Wx, Wh, b = as_weights(Wx=Wx, Wh=Wh, b=b)
    width = len(GATES) * len(Wh)
    check_shape("Wh", Wh, ("H", width))
    check_shape("Wx", Wx, ("V", width))
    check_shape("b", b, (width,))
    columns = np.split(np.concatenate((Wh, Wx)), len(GATES), axis=1)
    biases = np.split(b, len(GATES))
    return {f"W_{gate}": W.T.copy() for gate, W in zip(GATES, columns, strict=True)} | {
        f"b_{gate}": bias[:, None].copy() for gate, bias in zip(GATES, biases, strict=True)
    }


@known
class CharLstm(NamedNetwork):
    """LSTM on one-hot characters, with a matrix on z = [h_{t-1}; x_t] for each gate:

    f, i, o = sigmoid(W z + b) each;  C~ = tanh(W_C z + b_C)
    C_t = f C_{t-1} + i C~;  h_t = o tanh(C_t);  logits W_v h_t + b_v

    The loss is the cross entropy of the softmax, summed over all positions, in nats.

    Parameters
    ----------
    weights : dict of arrays W_f, W_i, W_C, W_o (H, H+V), W_v (V, H), b_f, b_i, b_C, b_o (H, 1),
        b_v (V, 1)
        Initial weights, all float32 or all float64; they are copied.
    truncate_size, stateful : keyword-only, as in `TimeLSTM`
        By default the gradient flows through the whole block, and a block starts from zeros, but
        for those of `fit` and `sample` that continue another.
    ops : module with the arithmetic, see `rnnfast.layers`

    Attributes
    ----------
    weights, gradients : dicts of new arrays by these names, made by `unpack_gates`
    params, grads : lists of what the layers compute with

    Raises
    ------
    TypeError, ValueError
        Where weights, inputs or targets do not fit; here and in all methods.

    Examples
    --------
    >>> import numpy as np, rnnfast
    >>> text = "First Citizen:\\nBefore we p"
    >>> vocabulary = rnnfast.Vocabulary.from_text(text)
    >>> ids = vocabulary.encode(text)
    >>> model = rnnfast.CharLstm.random(len(vocabulary), 50, rng=np.random.RandomState(0))
    >>> losses = model.fit(ids, epochs=200, lr=0.1)
    >>> losses[0] > 60, losses[-1] < 1
    (True, True)
    >>> vocabulary.decode(model.sample(ids[:1], 25, temperature=0))
    'irst Citizen:\\nBefore we p'
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
        W_v, b_v = own["W_v"], own["b_v"]
        V, H = W_v.shape
        check_shape("W_f", own["W_f"], (H, H + V), "its columns are for [h; x]")
        self.vocab_size = V
        gates = pack_gates(own)
        layers = {
            "input": TimeOneHot(V, W_v.dtype),
            "recurrent": TimeLSTM(*gates, stateful, truncate_size=truncate_size, ops=ops),
            "affine": TimeAffine(W_v.T.copy(), b_v.reshape(-1), ops=ops),
        }
        super().__init__(layers, TimeSoftmaxWithLoss(ops=ops))

    @classmethod
    def random(
        cls,
        vocab_size: int,
        hidden_size: int = 100,
        *,
        std: float = 0.1,
        gate_mean: float = 0.0,
        rng: Seed = None,
        dtype: DTypeLike = np.float32,
        **options: Any,
    ) -> Self:
        """A model with normal weights of standard deviation `std`, drawn in the order W_f, W_i,
        W_C, W_o, W_v, and biases 0.

        gate_mean : mean of W_f, W_i and W_o; the notebook has 0.5, which makes a hundred recurrent
            weights pull a gate the same way, and training slow
        rng : numpy.random.Generator or RandomState, an int that seeds a Generator, or None, which
            is NumPy's global state
        """
        V, H = as_count("vocab_size", vocab_size), as_count("hidden_size", hidden_size)
        normal = normal_numbers(rng)
        weights = {}
        for gate in "fiCo":
            mean = 0.0 if gate == "C" else gate_mean
            weights[f"W_{gate}"] = (std * normal((H, H + V)) + mean).astype(dtype)
            weights[f"b_{gate}"] = np.zeros((H, 1), dtype)
        weights["W_v"] = (std * normal((V, H))).astype(dtype)
        weights["b_v"] = np.zeros((V, 1), dtype)
        return cls(weights, **options)

    @classmethod
    def _by_name(cls, arrays: Sequence[Array], shapes: Mapping[str, Shape]) -> Named:
        *lstm, W, b = arrays
        return unpack_gates(*lstm) | {"W_v": W.T.copy(), "b_v": b[:, None].copy()}

    def forward(self, xs: ArrayLike, ts: ArrayLike, **options: Any) -> float:
        """Characters and those that follow -> summed cross entropy in nats, a float.

        xs, ts : ids (T,) or (N, T), or one-hot vectors (T, V) in floating point or (N, T, V)
        """
        V = self.vocab_size
        xs, ts = as_tokens("xs", xs, V), as_tokens("ts", ts, V)
        self._positions = ts.size
        return super().forward(xs, ts, **options) * ts.size

    def backward(self, dout: float = 1, *, sparse: bool = False) -> Named:
        """Fill `grads` with the gradients of the last forward, times `dout`; -> `gradients`."""
        return super().backward(dout * self._positions, sparse=sparse)

    def fit(
        self,
        ids: ArrayLike,
        epochs: int = 200,
        lr: float = 0.1,
        *,
        T_steps: int = 25,
        max_grad: float | None = None,
        on_epoch: Callable[[int, float], object] | None = None,
    ) -> list[float]:
        """Gradient descent over a text in blocks of `T_steps` characters.

        The state is carried from block to block, and is zero at the beginning of every epoch.

        Parameters
        ----------
        ids : int array (M,), at least 2
        epochs, lr : int, float
            How often to go over the text, and the learning rate. The notebook's 20 and 1e-4 change
            next to nothing.
        T_steps : int, keyword-only (like what follows)
            Characters through which gradients flow.
        max_grad : float or None
            Norm at which the gradient is clipped.
        on_epoch : called with (epoch, loss) after every epoch

        Returns
        -------
        list of float
            The summed loss of every epoch, each block measured before its update.

        Raises
        ------
        TypeError, ValueError, TrainingDiverged
        """
        T = as_count("T_steps", T_steps)
        ids = as_ids("ids", ids, self.vocab_size, ("M",))
        check_length("ids", ids, "character")
        starts = range(0, len(ids) - 1, T)
        blocks = [(ids[:-1][k : k + T], ids[1:][k : k + T]) for k in starts]
        optimizer, losses = SGD(lr, ops=self.loss_layer.ops), []
        for epoch in range(1, as_count("epochs", epochs) + 1):
            with self.carrying_state():
                losses.append(
                    sum(take_step(self, optimizer, *block, max_grad=max_grad) for block in blocks)
                )
            if on_epoch:
                on_epoch(epoch, losses[-1])
        return losses

    def sample(self, prime: ArrayLike, length: int, **options: Any) -> Ids:
        """`length` ids that continue `prime`; the options are those of `rnnfast.generate`."""
        return generate(self, prime, length, **options)
