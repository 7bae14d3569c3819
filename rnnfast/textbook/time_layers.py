"""Layers of the book with a time axis, those of one step, and losses.

Letters in shapes: N batch rows, T time steps, D input size, H hidden size, V vocabulary size.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from .. import layers as compiled
from .. import losses
from .._checks import as_floats, as_fraction, check_shape
from .._types import Array, ArrayLike, Shape
from ..layers.recurrent import TimeRecurrent
from ._over import Over, Plain, lengthened, widened
from .config import GPU
from .functions import cross_entropy_error, sigmoid, softmax
from .layers import (
    Affine,
    Dropout,
    Embedding,
    MatMul,
    Sigmoid,
    SigmoidWithLoss,
    Softmax,
    SoftmaxWithLoss,
    last,
)

__all__ = [
    "GPU",
    "GRU",
    "LSTM",
    "RNN",
    "Affine",
    "Dropout",
    "Embedding",
    "MatMul",
    "Sigmoid",
    "SigmoidWithLoss",
    "Simple_TimeAffine",
    "Simple_TimeSoftmaxWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "TimeAffine",
    "TimeBiLSTM",
    "TimeDropout",
    "TimeEmbedding",
    "TimeGRU",
    "TimeLSTM",
    "TimeRNN",
    "TimeSigmoidWithLoss",
    "TimeSoftmaxWithLoss",
    "cross_entropy_error",
    "np",
    "sigmoid",
    "softmax",
]


class _Step(Over):
    """One step, whose states come and go as arguments."""

    _inputs: tuple[Array, ...] | None = None
    """x, and the states before it, of the last forward."""

    def _forward(self, x: ArrayLike, *states: ArrayLike | None) -> Any:
        own = self._take_weights()
        Wx, *_ = own._checked_params()
        x = as_floats("x", x, Wx.dtype, ("N", len(Wx)))
        shape = own.state_shape(len(x))
        before = [widened(0 if state is None else state, shape) for state in states]
        after = own.forward(x, *before)
        self._inputs = x, *map(np.asarray, before)
        return after

    def _backward(self, *gradients: ArrayLike) -> Any:
        own = self._take_weights()
        x, *_ = last(self._inputs)
        results = own.backward(*(widened(d, own.state_shape(len(x))) for d in gradients))
        self._return_gradients()
        return results

    def _gates(self, x: Array, h_prev: Array) -> list[Array]:
        """What x Wx + h_prev Wh + b is in the columns of each gate."""
        Wx, Wh, b = self._layer.params
        return np.split(np.dot(x, Wx) + np.dot(h_prev, Wh) + b, self._layer.cell.G, axis=1)


class RNN(_Step):
    """One step: h = tanh(x Wx + h_prev Wh + b). Wx (D, H), Wh (H, H), b (H,).

    Attribute `cache`: x, h_prev, h of the last forward, or None.
    """

    cache: tuple[Array, ...] | None = None

    def __init__(self, Wx: Array, Wh: Array, b: Array) -> None:
        super().__init__(compiled.RNN, Wx, Wh, b)

    def forward(self, x: ArrayLike, h_prev: ArrayLike) -> Array:
        """x (N, D), h_prev (N, H) -> h (N, H)."""
        h: Array = self._forward(x, h_prev)
        self.cache = *last(self._inputs), h
        return h

    def backward(self, dh_next: ArrayLike) -> tuple[Array, Array]:
        """Gradient of h (N, H) -> those of x (N, D) and h_prev (N, H); fills `grads`."""
        dx, dh_prev = self._backward(dh_next)
        return dx, dh_prev


class LSTM(_Step):
    """One step: c = f c_prev + g i, h = o tanh(c), the gates f, g, i, o being in this order the
    columns of x Wx + h_prev Wh + b. Wx (D, 4H), Wh (H, 4H), b (4H,).
    """

    _c: Array

    def __init__(self, Wx: Array, Wh: Array, b: Array) -> None:
        super().__init__(compiled.LSTM, Wx, Wh, b)

    def forward(self, x: ArrayLike, h_prev: ArrayLike, c_prev: ArrayLike) -> tuple[Array, Array]:
        """x (N, D), h_prev and c_prev (N, H) -> h, c, both (N, H)."""
        h, self._c = self._forward(x, h_prev, c_prev)
        return h, self._c

    def backward(self, dh_next: ArrayLike, dc_next: ArrayLike) -> tuple[Array, Array, Array]:
        """Gradients of h and c, (N, H) or a number -> those of x (N, D), h_prev and c_prev."""
        dx, dh_prev, dc_prev = self._backward(dh_next, dc_next)
        return dx, dh_prev, dc_prev

    @property
    def cache(self) -> tuple[Array, ...] | None:
        """x, h_prev, c_prev, i, f, g, o, c of the last forward, or None; gates are made anew."""
        if self._inputs is None:
            return None
        x, h_prev, _ = self._inputs
        f, g, i, o = self._gates(x, h_prev)
        return *self._inputs, sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o), self._c


def _entry(arrays: str, k: int) -> Any:
    """An attribute that is an array of `params` or of `grads`."""
    return property(lambda self: getattr(self, arrays)[k])


class _Gru(Over):
    """A GRU by the names that its weights have in the book; without b, that is 0."""

    def __init__(
        self,
        make: Callable[..., compiled.Layer],
        Wx: Array,
        Wh: Array,
        b: Array | None,
        **options: Any,
    ) -> None:
        if b is None:
            super().__init__(lambda *W: make(*W, _zero_bias(*W), **options), Wx, Wh)
        else:
            super().__init__(make, Wx, Wh, b, **options)

    Wx: Any = _entry("params", 0)
    Wh: Any = _entry("params", 1)
    dWx: Any = _entry("grads", 0)  # noqa: N815
    dWh: Any = _entry("grads", 1)  # noqa: N815
    db: Any = _entry("grads", 2)  # of a layer that was given b


def _zero_bias(Wx: Array, Wh: Array) -> Array:
    return np.zeros(Wh.shape[-1:], Wh.dtype)


class GRU(_Gru, _Step):
    """One step: h = (1 - z) h_prev + z g, with z and r the sigmoid, and g the tanh, of the columns
    z, r, h of x Wx + h_prev Wh + b, in the last of which r h_prev stands for h_prev.
    Wx (D, 3H), Wh (H, 3H), b (3H,) or none.
    """

    def __init__(self, Wx: Array, Wh: Array, b: Array | None = None) -> None:
        super().__init__(compiled.GRU, Wx, Wh, b)

    def forward(self, x: ArrayLike, h_prev: ArrayLike) -> Array:
        """x (N, D), h_prev (N, H) -> h (N, H)."""
        h: Array = self._forward(x, h_prev)
        return h

    def backward(self, dh_next: ArrayLike) -> tuple[Array, Array]:
        """Gradient of h (N, H) -> those of x (N, D) and h_prev (N, H); fills `grads`."""
        dx, dh_prev = self._backward(dh_next)
        return dx, dh_prev

    @property
    def cache(self) -> tuple[Array, ...] | None:
        """x, h_prev, z, r, g of the last forward, or None; gates are made anew."""
        if self._inputs is None:
            return None
        x, h_prev = self._inputs
        z, r, _ = self._gates(x, h_prev)
        r = sigmoid(r)
        _, _, g = self._gates(x, r * h_prev)
        return x, h_prev, sigmoid(z), r, np.tanh(g)


def _of_layer(name: str) -> Any:
    """An attribute of the library's layer, which may be set."""

    def get(self: Over) -> Any:
        return getattr(self._layer, name)

    def put(self: Over, value: Any) -> None:
        setattr(self._layer, name, value)

    return property(get, put)


class _Wide(TimeRecurrent):
    """A layer of the library that takes a state of one row for a batch."""

    def _given(self, rows: int, states: Mapping[str, ArrayLike | None], hint: str) -> Any:
        shape = rows, self.hidden_size
        wide = {name: widened(state, shape) for name, state in states.items()}
        return super()._given(rows, wide, hint)


def _wide(layer: type[TimeRecurrent]) -> Any:
    """Errors call it by the name that the layer has, pickles by the name that it has here."""
    names = {"__module__": __name__, "__qualname__": f"_Wide{layer.__name__}"}
    return type(layer.__name__, (_Wide, layer), names)


_WideTimeRNN, _WideTimeLSTM, _WideTimeGRU = map(
    _wide, (compiled.TimeRNN, compiled.TimeLSTM, compiled.TimeGRU)
)


class _TimeRecurrent(Over):
    """A layer over blocks of T steps.

    Attributes
    ----------
    h, and c of an LSTM : last state (N, H) of the last forward, or None; may be set
    dh, and dc : gradient (N, H) of the initial state, from the last backward, or None
    stateful : whether a block starts from the last states of the one before, or from zeros
    """

    _one_step: ClassVar[Callable[..., Any]]
    _seen: tuple[Array, tuple[ArrayLike | None, ...]] | None = None
    """Input and initial states of the last forward."""
    _layers: list[Any] | None = None

    h: Any = _of_layer("h")
    dh: Any = _of_layer("dh")
    stateful: Any = _of_layer("stateful")

    def forward(self, xs: ArrayLike) -> Array:
        """xs (N, T, D) -> hs (N, T, H). A carried state of one row is that of every row."""
        own, xs = self._take_weights(), np.asarray(xs)
        states = own.get_state() if own.stateful else (None,) * own.cell.S
        hs: Array = own.forward(xs)
        self._seen, self._layers = (xs, states), None
        return hs

    def backward(self, dhs: ArrayLike) -> Array:
        """Gradient of hs (N, T, H), or of its first steps -> that of as many of xs; fills `grads`,
        sets `dh`."""
        own, (xs, _) = self._take_weights(), last(self._seen)
        dhs = np.asarray(dhs)
        dxs: Array = own.backward(lengthened(dhs, xs.shape[1]))
        self._return_gradients()
        return dxs if dhs.shape[1] == dxs.shape[1] else dxs[:, : dhs.shape[1]]

    def reset_state(self) -> None:
        """Let the next block start from zeros."""
        self._layer.reset_state()

    @property
    def layers(self) -> list[Any] | None:
        """The steps of the last forward, each with its `cache`, or None.

        They are made when somebody asks, of the weights as they are then; `grads` of theirs are 0.
        """
        if self._seen is not None and self._layers is None:
            xs, states = self._seen
            self._layers = []
            for t in range(xs.shape[1]):
                step = self._one_step(*self.params)
                after = step.forward(xs[:, t], *states)
                states = after if isinstance(after, tuple) else (after,)
                self._layers.append(step)
        return self._layers


class _TimeOfH(_TimeRecurrent):
    def set_state(self, h: ArrayLike | None) -> None:
        """Let the next block of a stateful layer start from h (N, H); None is zeros."""
        self._layer.set_state(h)


class TimeRNN(_TimeOfH):
    """`RNN` over a block of T steps. Wx (D, H), Wh (H, H), b (H,)."""

    _one_step: ClassVar[Callable[..., Any]] = RNN

    def __init__(self, Wx: Array, Wh: Array, b: Array, stateful: bool = False) -> None:
        super().__init__(_WideTimeRNN, Wx, Wh, b, stateful=bool(stateful))


class TimeLSTM(_TimeRecurrent):
    """`LSTM` over a block of T steps. Wx (D, 4H), Wh (H, 4H), b (4H,)."""

    _one_step: ClassVar[Callable[..., Any]] = LSTM

    c: Any = _of_layer("c")
    dc: Any = _of_layer("dc")

    def __init__(self, Wx: Array, Wh: Array, b: Array, stateful: bool = False) -> None:
        super().__init__(_WideTimeLSTM, Wx, Wh, b, stateful=bool(stateful))

    def set_state(self, h: ArrayLike | None, c: ArrayLike | None = None) -> None:
        """Let the next block of a stateful layer start from h and c (N, H); None is zeros."""
        self._layer.set_state(h, c)


class TimeGRU(_Gru, _TimeOfH):
    """`GRU` over a block of T steps. Wx (D, 3H), Wh (H, 3H), b (3H,) or none: a third argument by
    position that is True or False is `stateful`, as in the book's first edition.
    """

    _one_step: ClassVar[Callable[..., Any]] = GRU

    def __init__(
        self, Wx: Array, Wh: Array, b: Array | bool | None = None, stateful: bool = False
    ) -> None:
        if isinstance(b, (bool, np.bool_)):
            b, stateful = None, bool(b)
        super().__init__(_WideTimeGRU, Wx, Wh, b, stateful=bool(stateful))


class TimeBiLSTM(Plain):
    """Two `TimeLSTM` over the same block, one from its first step to the last, one from its last to
    the first, whose outputs stand side by side: `forward_lstm` and `backward_lstm`.
    """

    forward_lstm: TimeLSTM
    backward_lstm: TimeLSTM
    params: list[Array]
    grads: list[Array]

    def __init__(
        self,
        Wx1: Array,
        Wh1: Array,
        b1: Array,
        Wx2: Array,
        Wh2: Array,
        b2: Array,
        stateful: bool = False,
    ) -> None:
        self.forward_lstm = TimeLSTM(Wx1, Wh1, b1, stateful)
        self.backward_lstm = TimeLSTM(Wx2, Wh2, b2, stateful)
        self.params = self.forward_lstm.params + self.backward_lstm.params
        self.grads = self.forward_lstm.grads + self.backward_lstm.grads

    def forward(self, xs: ArrayLike) -> Array:
        """xs (N, T, D) -> (N, T, 2H)."""
        xs = np.asarray(xs)
        ahead, back = self.forward_lstm.forward(xs), self.backward_lstm.forward(xs[:, ::-1])
        return np.concatenate((ahead, back[:, ::-1]), axis=2)

    def backward(self, dhs: ArrayLike) -> Array:
        """Gradient (N, T, 2H) of the output -> that of xs (N, T, D); fills `grads`."""
        ahead, back = np.split(np.asarray(dhs), 2, axis=2)
        dxs = self.forward_lstm.backward(ahead)
        dxs += self.backward_lstm.backward(back[:, ::-1])[:, ::-1]
        return dxs


class TimeEmbedding(Over):
    """Rows of the table `W` (V, D) by token id."""

    W: Any = _entry("params", 0)
    _ids: Array | None = None

    def __init__(self, W: Array) -> None:
        super().__init__(compiled.TimeEmbedding, W)

    def forward(self, xs: ArrayLike) -> Array:
        """Ids xs (N, T) -> vectors (N, T, D).

        Raises TypeError for ids that are not integers, ValueError for one outside 0..V-1.
        """
        xs = np.asarray(xs)
        out: Array = self._take_weights().forward(xs)
        self._ids = xs
        return out

    def backward(self, dout: ArrayLike) -> None:
        """Gradient (N, T, D) of the vectors, or of their first steps -> None; fills `grads`."""
        own = self._take_weights()
        own.backward(lengthened(dout, last(self._ids).shape[1]))
        self._return_gradients()

    @property
    def layers(self) -> list[Embedding] | None:
        """An `Embedding` for every step of the last forward, with its `idx`, or None."""
        if self._ids is None:
            return None
        steps = [Embedding(self.W) for _ in self._ids.T]
        for step, ids in zip(steps, self._ids.T, strict=True):
            step.forward(ids)
        return steps


class TimeAffine(Over):
    """x W + b at every position. W (D, M), b (M,); attribute `x`, the last input."""

    x: Array | None = None

    def __init__(self, W: Array, b: Array) -> None:
        super().__init__(compiled.TimeAffine, W, b)

    def forward(self, x: ArrayLike) -> Array:
        """x (N, T, D) -> (N, T, M)."""
        x = np.asarray(x)
        out: Array = self._take_weights().forward(x)
        self.x = x
        return out

    def backward(self, dout: ArrayLike) -> Array:
        """Gradient (N, T, M) of the output, or (N*T, M) -> that of x (N, T, D); fills `grads`."""
        own = self._take_weights()
        dx: Array = own.backward(np.reshape(dout, (*last(self.x).shape[:2], -1)))
        self._return_gradients()
        return dx


class TimeSoftmaxWithLoss(losses.TimeSoftmaxWithLoss):
    """Softmax, and the mean cross entropy of all positions whose target is not `ignore_label`."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, xs: ArrayLike, ts: ArrayLike) -> float:
        """Logits xs (N, T, V), targets ts: ids (N, T), or N*T of them in any shape, or one-hot
        (N, T, V) -> float."""
        xs, ts = np.asarray(xs), np.asarray(ts)
        if xs.ndim == 3 and ts.ndim != 3 and ts.size == len(xs) * xs.shape[1]:
            ts = ts.reshape(xs.shape[:2])
        return super().forward(xs, ts)

    @property
    def cache(self) -> tuple[Any, ...] | None:
        """Of the last forward, or None: targets and probabilities of all N*T positions, which of
        them count, and (N, T, V)."""
        if self._kept is None:
            return None
        (shape, probs, targets, _, ignore_label), _ = self._kept
        return targets, probs, targets != ignore_label, shape


class TimeDropout(Plain):
    """x times a mask of 0 and 1 / (1 - dropout_ratio) where `train_flg`, else x.

    The mask is drawn from NumPy's global generator; attribute `mask`, what the last x met.
    """

    dropout_ratio: float
    train_flg: bool
    mask: Array | float | None = None

    def __init__(self, dropout_ratio: float = 0.5) -> None:
        super().__init__()
        self.dropout_ratio = as_fraction("dropout_ratio", dropout_ratio)
        self.train_flg = True

    def forward(self, xs: Array) -> Array:
        """xs of any shape -> that shape."""
        if not self.train_flg:
            self.mask = 1.0
            return xs
        kept = np.random.rand(*xs.shape) > self.dropout_ratio
        self.mask = kept.astype(np.float32) * (1 / (1 - self.dropout_ratio))
        out: Array = xs * self.mask
        return out

    def backward(self, dout: Array) -> Array:
        """Gradient of the output -> that of xs."""
        dxs: Array = dout * last(self.mask)
        return dxs


class TimeSigmoidWithLoss(Plain):
    """`SigmoidWithLoss` over all positions."""

    xs_shape: Shape | None = None

    def __init__(self) -> None:
        super().__init__()
        self._loss = SigmoidWithLoss()

    def forward(self, xs: ArrayLike, ts: ArrayLike) -> float:
        """Scores xs (N, T), targets ts (N, T), each 0 or 1 -> float."""
        xs, ts = np.asarray(xs), np.asarray(ts)
        check_shape("xs", xs, ("N", "T"))
        check_shape("ts", ts, xs.shape, "targets have the shape of the scores")
        loss = self._loss.forward(xs.reshape(-1), ts.reshape(-1))
        self.xs_shape = xs.shape
        return loss

    def backward(self, dout: float = 1) -> Array:
        """Gradient of the scores (N, T)."""
        return self._loss.backward(dout).reshape(last(self.xs_shape))


class Simple_TimeSoftmaxWithLoss(Plain):  # noqa: N801  (the book's name)
    """`SoftmaxWithLoss` over all positions: no target is ignored."""

    _shape: Shape | None = None

    def __init__(self) -> None:
        super().__init__()
        self._loss = SoftmaxWithLoss()

    def forward(self, xs: ArrayLike, ts: ArrayLike) -> float:
        """Logits xs (N, T, V), targets ts: ids (N, T) or one-hot (N, T, V) -> float."""
        xs, ts = np.asarray(xs), np.asarray(ts)
        check_shape("xs", xs, ("N", "T", "V"))
        check_shape("ts", ts, xs.shape[: 3 if ts.ndim == 3 else 2])
        loss = self._loss.forward(xs.reshape(-1, xs.shape[2]), ts.reshape(-1, *ts.shape[2:]))
        self._shape = xs.shape
        return loss

    def backward(self, dout: float = 1) -> Array:
        """Gradient of the logits (N, T, V)."""
        return self._loss.backward(dout).reshape(last(self._shape))


class Simple_TimeAffine(TimeAffine):  # noqa: N801  (the book's name)
    """`TimeAffine`, whose arrays are attributes too."""

    W: Any = _entry("params", 0)
    b: Any = _entry("params", 1)
    dW: Any = _entry("grads", 0)  # noqa: N815
    db: Any = _entry("grads", 1)
