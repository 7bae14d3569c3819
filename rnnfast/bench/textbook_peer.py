"""What the textbook's reader has: models and layers in the style of "Deep Learning from Scratch 2".

Written anew for this comparison, in float32 throughout. The style is the point: an object for
every time step, with gradients of its own that are summed afterwards; the embedding's gradient
dense; logits and probabilities of all N*T tokens in memory.
How many threads NumPy's matrix products use was said to BLAS before this process started.

N batch rows, T time steps, D input size, H hidden size, V vocabulary size.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from .._types import Array, Ids
from ..reference.ops import draw
from . import ours, problems, programs, textbook_loops


def sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


def softmax(x: Array) -> Array:
    e: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


class Layer:
    """Weights, and a gradient of each, whose memory stays."""

    params: list[Array]
    grads: list[Array]

    def __init__(self, *params: Array) -> None:
        self.params, self.grads = [*params], [np.zeros_like(W) for W in params]

    def keep(self, *grads: Array) -> None:
        for dW, grad in zip(self.grads, grads, strict=True):
            dW[...] = grad


class Embedding(Layer):
    ids: Ids

    def forward(self, ids: Ids) -> Array:
        self.ids = ids
        return self.params[0][ids]

    def backward(self, dout: Array) -> None:
        (dW,) = self.grads
        dW[...] = 0
        np.add.at(dW, self.ids, dout)


class Cell(Layer):
    """One step of a recurrent layer."""

    states: int
    cache: tuple[Array, ...]
    forward: Callable[..., tuple[Array, ...]]
    backward: Callable[..., tuple[Array, ...]]

    def backward_product(self, da: Array) -> tuple[Array, Array]:
        """Gradient of x Wx + h_prev Wh + b -> those of x and h_prev, and of the weights."""
        (Wx, Wh, _), (x, h_prev, *_) = self.params, self.cache
        self.keep(np.dot(x.T, da), np.dot(h_prev.T, da), np.sum(da, axis=0))
        return np.dot(da, Wx.T), np.dot(da, Wh.T)


class RNN(Cell):
    states: int = 1

    def forward(self, x: Array, h_prev: Array) -> tuple[Array, ...]:
        Wx, Wh, b = self.params
        h = np.tanh(np.dot(h_prev, Wh) + np.dot(x, Wx) + b)
        self.cache: tuple[Array, ...] = x, h_prev, h
        return (h,)

    def backward(self, dh: Array) -> tuple[Array, ...]:
        _, _, h = self.cache
        return self.backward_product(dh * (1 - h**2))


class LSTM(Cell):
    states: int = 2

    def forward(self, x: Array, h_prev: Array, c_prev: Array) -> tuple[Array, ...]:
        Wx, Wh, b = self.params
        H = h_prev.shape[1]
        a = np.dot(x, Wx) + np.dot(h_prev, Wh) + b
        f, g = sigmoid(a[:, :H]), np.tanh(a[:, H : 2 * H])
        i, o = sigmoid(a[:, 2 * H : 3 * H]), sigmoid(a[:, 3 * H :])
        c = f * c_prev + g * i
        h = o * np.tanh(c)
        self.cache: tuple[Array, ...] = x, h_prev, c_prev, f, g, i, o, c
        return h, c

    def backward(self, dh: Array, dc: Array) -> tuple[Array, ...]:
        _, _, c_prev, f, g, i, o, c = self.cache
        tanh_c = np.tanh(c)
        dc = dc + dh * o * (1 - tanh_c**2)
        df, di = dc * c_prev * f * (1 - f), dc * g * i * (1 - i)
        dg, do = dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)
        return *self.backward_product(np.hstack((df, dg, di, do))), dc * f


class GRU(Cell):
    """Its forward pass: who generates needs no other."""

    states: int = 1

    def forward(self, x: Array, h_prev: Array) -> tuple[Array, ...]:
        Wx, Wh, b = self.params
        H = h_prev.shape[1]
        zr = sigmoid(np.dot(x, Wx[:, : 2 * H]) + np.dot(h_prev, Wh[:, : 2 * H]) + b[: 2 * H])
        z, r = zr[:, :H], zr[:, H:]
        g = np.tanh(np.dot(x, Wx[:, 2 * H :]) + np.dot(r * h_prev, Wh[:, 2 * H :]) + b[2 * H :])
        return ((1 - z) * h_prev + z * g,)


CELLS: dict[str, type[Cell]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


class TimeLayer(Layer):
    """A layer for every time step, all with the same weights; gradients are summed over them."""

    def start_backward(self) -> None:
        for dW in self.grads:
            dW[...] = 0

    def add(self, step: Layer) -> None:
        for dW, grad in zip(self.grads, step.grads, strict=True):
            dW += grad


class TimeEmbedding(TimeLayer):
    steps: list[Embedding]

    def forward(self, xs: Ids) -> Array:
        N, T = xs.shape
        out, self.steps = np.empty((N, T, self.params[0].shape[1]), "f"), []
        for t in range(T):
            step = Embedding(*self.params)
            out[:, t] = step.forward(xs[:, t])
            self.steps.append(step)
        return out

    def backward(self, dout: Array) -> None:
        self.start_backward()
        for t, step in enumerate(self.steps):
            step.backward(dout[:, t])
            self.add(step)


class TimeRecurrent(TimeLayer):
    """A cell over time. Where it is `stateful`, a block starts from the state that the one before
    left."""

    cell: type[Cell]
    stateful: bool
    state: Sequence[Array] | None
    dh: Array
    steps: list[Cell]

    def __init__(self, *params: Array, stateful: bool = False) -> None:
        super().__init__(*params)
        self.stateful, self.state = stateful, None

    def forward(self, xs: Array) -> Array:
        (N, T, _), H = xs.shape, self.params[1].shape[0]
        if not self.stateful or self.state is None:
            self.state = [np.zeros((N, H), "f") for _ in range(self.cell.states)]
        hs, self.steps = np.empty((N, T, H), "f"), []
        for t in range(T):
            step = self.cell(*self.params)
            self.state = step.forward(xs[:, t], *self.state)
            hs[:, t] = self.state[0]
            self.steps.append(step)
        return hs

    def backward(self, dhs: Array) -> Array:
        N, T, _ = dhs.shape
        dxs = np.empty((N, T, self.params[0].shape[0]), "f")
        self.start_backward()
        dh: Array
        dc: list[Array]
        dh, *dc = [np.zeros_like(dhs[:, 0])] * self.cell.states
        for t in reversed(range(T)):
            dxs[:, t], dh, *dc = self.steps[t].backward(dhs[:, t] + dh, *dc)
            self.add(self.steps[t])
        self.dh = dh
        return dxs

    def set_state(self, h: Array, *c: Array) -> None:
        missing = self.cell.states - 1 - len(c)
        self.state = [h, *c, *[np.zeros_like(h)] * missing]

    def reset_state(self) -> None:
        self.state = None


class TimeRNN(TimeRecurrent):
    cell: type[Cell] = RNN


class TimeLSTM(TimeRecurrent):
    cell: type[Cell] = LSTM


class TimeGRU(TimeRecurrent):
    cell: type[Cell] = GRU


TIME_LAYERS: dict[str, type[TimeRecurrent]] = {"rnn": TimeRNN, "lstm": TimeLSTM, "gru": TimeGRU}


class TimeAffine(Layer):
    xs: Array

    def forward(self, xs: Array) -> Array:
        W, b = self.params
        self.xs = xs
        out: Array = np.dot(xs.reshape(-1, len(W)), W) + b
        return out.reshape(*xs.shape[:2], -1)

    def backward(self, dout: Array) -> Array:
        W, _ = self.params
        x, dout = self.xs.reshape(-1, len(W)), dout.reshape(-1, W.shape[1])
        self.keep(np.dot(x.T, dout), np.sum(dout, axis=0))
        dx: Array = np.dot(dout, W.T)
        return dx.reshape(self.xs.shape)


class TimeDropout(Layer):
    train_flg: bool = True
    ratio: float
    mask: Array

    def __init__(self, ratio: float = 0.5) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, xs: Array) -> Array:
        if not self.train_flg:
            return xs
        kept = np.random.rand(*xs.shape) > self.ratio
        self.mask = kept.astype("f") * (1 / (1 - self.ratio))
        out: Array = xs * self.mask
        return out

    def backward(self, dout: Array) -> Array:
        dxs: Array = dout * self.mask
        return dxs


class Softmax(Layer):
    out: Array

    def forward(self, x: Array) -> Array:
        self.out = softmax(x)
        return self.out

    def backward(self, dout: Array) -> Array:
        dx: Array = self.out * dout
        dx -= self.out * np.sum(dx, axis=1, keepdims=True)
        return dx


class TimeSoftmaxWithLoss(Layer):
    ignore_label: int = -1
    cache: tuple[Array, Ids, Array, tuple[int, ...]]

    def forward(self, xs: Array, ts: Ids) -> float:
        probabilities, ts = softmax(xs.reshape(-1, xs.shape[2])), ts.reshape(-1)
        mask = ts != self.ignore_label
        losses = np.log(probabilities[np.arange(len(ts)), ts])
        losses *= mask
        self.cache = probabilities, ts, mask, xs.shape
        return float(-np.sum(losses) / mask.sum())

    def backward(self, dout: float = 1) -> Array:
        dx, ts, mask, shape = self.cache
        dx[np.arange(len(ts)), ts] -= 1
        dx *= dout
        dx /= mask.sum()
        dx *= mask[:, np.newaxis]
        return dx.reshape(shape)


class LanguageModel:
    layers: list[Any]
    recurrent: TimeRecurrent
    loss_layer: TimeSoftmaxWithLoss
    params: list[Array]
    grads: list[Array]

    def __init__(
        self, cell: str, embed_W: Array, Wx: Array, Wh: Array, b: Array, W: Array, affine_b: Array
    ) -> None:
        recurrent = TIME_LAYERS[cell](Wx, Wh, b, stateful=True)
        self.layers = [TimeEmbedding(embed_W), recurrent, TimeAffine(W, affine_b)]
        self.loss_layer = TimeSoftmaxWithLoss()
        self.recurrent = recurrent
        self.params = [W for layer in self.layers for W in layer.params]
        self.grads = [dW for layer in self.layers for dW in layer.grads]

    def predict(self, xs: Any) -> Any:
        for layer in self.layers:
            xs = layer.forward(xs)
        return xs

    def forward(self, xs: Any, ts: Ids) -> float:
        return self.loss_layer.forward(self.predict(xs), ts)

    def backward(self) -> None:
        dout: Any = self.loss_layer.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)


class Training(ours.Training):
    """The steps of `ours` by a model of the textbook's style, with the same weights."""

    def __init__(self, threads: int, *, cell: str, **sizes: Any) -> None:
        super().__init__(threads, cell=cell, **sizes)
        self.model: Any = LanguageModel(cell, *self.model.params)

    def update(self) -> None:
        for W, dW in zip(self.model.params, self.model.grads, strict=True):
            W -= problems.LEARNING_RATE * dW


class Answering(ours.Answering):
    """The same by a program of the book's chapters 7 or 8, with the same weights."""

    def __init__(self, threads: int, *, model: str, **sizes: int) -> None:
        super().__init__(threads, model=model, **sizes)
        own = getattr(programs, model)(names(), *(sizes[name] for name in "VDH"))
        for W, start in zip(own.params, self.model.params, strict=True):
            W[...] = start
        self.model: Any = own
        self.optimizer: Any = textbook_loops.SGD(problems.LEARNING_RATE)


class Program(ours.Program):
    """A program of the book's, with the layers of this module."""

    def common(self) -> Any:
        return names()


def names() -> Any:
    """What a program of the book's imports, from here."""
    return SimpleNamespace(**(globals() | vars(textbook_loops)))


class Generation(ours.Generation):
    """One token at a time through the layers, drawn by NumPy's `choice`."""

    def __init__(self, threads: int, *, cell: str, **sizes: Any) -> None:
        super().__init__(threads, cell=cell, **sizes)
        self.model: Any = LanguageModel(cell, *self.model.params)

    def run(self) -> Ids:
        rng = np.random.RandomState(0)
        return self._generate(lambda logits: rng.choice(len(logits), p=softmax(logits)))

    def results(self) -> list[Array]:
        """Drawn from the textbook's logits with the random numbers that rnnfast uses."""
        uniforms = iter(np.random.default_rng(0).random(self.length))
        return [self._generate(lambda logits: draw(logits.astype(np.float64), 1.0, next(uniforms)))]

    def _generate(self, sample: Callable[[Array], int]) -> Ids:
        ids, token = np.empty(self.length, np.int64), 0
        self.model.recurrent.state = None
        for k in range(self.length):
            ids[k] = token = sample(self.model.predict(np.array([[token]]))[0, 0])
        return ids


class Affine(ours.Affine):
    def __init__(self, threads: int, **sizes: Any) -> None:
        super().__init__(threads, **sizes)
        self.layer = TimeAffine(*self.layer.params)

    def run(self) -> Array:
        out: Array = self.layer.forward(self.x)
        return out


class Dropout(ours.Dropout):
    def __init__(self, threads: int, **sizes: Any) -> None:
        super().__init__(threads, **sizes)
        self.layer = TimeDropout()


class Attention(ours.Attention):
    def __init__(self, threads: int, **sizes: int) -> None:
        super().__init__(threads, **sizes)
        self.layer = programs.TimeAttention(SimpleNamespace(Softmax=Softmax))


class Step(ours.Step):
    def __init__(self, threads: int, *, cell: str, **sizes: int) -> None:
        super().__init__(threads, cell=cell, **sizes)
        self.layer = CELLS[cell](*self.layer.params)
