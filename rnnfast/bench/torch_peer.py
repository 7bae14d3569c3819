"""What PyTorch does, with the weights of this package."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.utils import rnn

from .._types import Array, Ids
from ..cells import CELLS
from ..reference.ops import draw
from ..text.lanes import PADDING, Blocks
from . import ours, problems

MODULES = {
    "rnn": torch.nn.RNN,
    "rnn_relu": partial(torch.nn.RNN, nonlinearity="relu"),
    "lstm": torch.nn.LSTM,
    "gru_reset_after": torch.nn.GRU,
}
ORDER = {  # PyTorch's gates, by the places of ours
    "rnn": [0],
    "rnn_relu": [0],
    "lstm": [2, 0, 1, 3],  # i, f, g, o out of f, g, i, o
    "gru_reset_after": [1, 0, 2],  # r, z, n out of z, r, h
}


def turned(W: Array, cell: str) -> Array:
    """Our weights, or gradients, with PyTorch's z of a GRU, which is 1 minus ours; and back."""
    if not cell.startswith("gru"):
        return W
    z, *others = np.split(W, 3, -1)
    return np.concatenate([-z, *others], -1)


def reordered(W: Array, order: Sequence[int] | Ids) -> Array:
    """Gates, blocks of the last axis, in another order."""
    parts = np.split(W, len(order), -1)
    return np.concatenate([parts[k] for k in order], -1)


def fill(parameter: Any, W: Array, cell: str) -> None:
    """Write weights of ours into a parameter of PyTorch."""
    with torch.no_grad():
        parameter[...] = torch.from_numpy(reordered(turned(W, cell), ORDER[cell]).T)


def recurrent(cell: str, weights: Sequence[Array], directions: int = 1, layers: int = 1) -> Any:
    """`torch.nn.RNN`, `LSTM` or `GRU`; a second bias that ours does not have is fixed at 0."""
    Wx, Wh = weights[:2]
    module: Any = MODULES[cell](
        *(len(Wx), len(Wh), layers),
        batch_first=True,
        bidirectional=directions == 2,
        dtype=torch.from_numpy(Wx).dtype,
    )
    trained = parameters(module, cell)
    for bias in module.parameters():
        if all(bias is not parameter for parameter in trained):
            bias.requires_grad_(False).zero_()
    for parameter, W in zip(trained, weights, strict=True):
        fill(parameter, W, cell)
    return module


def parameters(module: Any, cell: str) -> list[Any]:
    """Those of `recurrent` that are trained, in the order of ours."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: len(CELLS[cell].weights)]
    directions = ("", "_reverse")[: 1 + module.bidirectional]
    return [
        getattr(module, f"{name}_l{k}{direction}")
        for k in range(module.num_layers)
        for direction in directions
        for name in names
    ]


def textbook_layout(tensors: Sequence[Any], cell: str) -> list[Array]:
    """Parameters, or their gradients, as arrays in the layout of this package."""
    back = np.argsort(ORDER[cell])
    return [turned(reordered(W.detach().float().numpy().T, back), cell) for W in tensors]


def computing(precision: str | None) -> Any:
    """What a module computes in: its own precision, or "autocast" to bf16."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast")


class Layer:
    layer: Any
    cell: str
    xs: Any
    dhs: Any
    lengths: Any
    run: Callable[[], Any]

    def __init__(
        self,
        threads: int,
        *,
        cell: str,
        dtype: str,
        shape: Sequence[int],
        way: str,
        directions: int = 1,
        layers: int = 1,
        ragged: bool = False,
    ) -> None:
        torch.set_num_threads(threads)
        several = {"directions": directions, "layers": layers}
        xs, weights, dhs = problems.layer(cell, dtype, shape, **several)
        self.layer, self.cell = recurrent(cell, weights, **several), cell
        self.xs = torch.from_numpy(xs).requires_grad_(way == "both")
        self.dhs = torch.from_numpy(dhs)
        self.lengths = torch.from_numpy(problems.lengths(shape)) if ragged else None
        self.run = getattr(self, way)

    def outputs(self) -> Any:
        if self.lengths is None:
            return self.layer(self.xs)[0]
        packed = rnn.pack_padded_sequence(
            self.xs, self.lengths, batch_first=True, enforce_sorted=False
        )
        hs, _ = rnn.pad_packed_sequence(
            self.layer(packed)[0], batch_first=True, total_length=self.xs.shape[1]
        )
        return hs

    def forward(self) -> Any:
        with torch.no_grad():
            return self.outputs()

    def inference(self) -> Any:
        with torch.inference_mode():
            return self.outputs()

    def both(self) -> Any:
        self.layer.zero_grad(set_to_none=True)
        self.xs.grad = None
        hs = self.outputs()
        hs.backward(self.dhs)
        return hs

    def results(self) -> list[Array]:
        hs = self.run().detach().numpy()
        if self.xs.grad is None:
            return [hs]
        grads = [W.grad for W in parameters(self.layer, self.cell)]
        return [hs, self.xs.grad.numpy(), *textbook_layout(grads, self.cell)]


class LanguageModel:
    embedding: Any
    affine: Any
    recurrent: Any
    cell: str

    def __init__(self, cell: str, params: Sequence[Array], layers: int = 1) -> None:
        embed_W, *weights, W, affine_b = params
        self.embedding = torch.nn.Embedding(*embed_W.shape)
        self.affine = torch.nn.Linear(*W.shape)
        self.recurrent, self.cell = recurrent(cell, weights, layers=layers), cell
        with torch.no_grad():
            self.embedding.weight[...] = torch.from_numpy(embed_W)
            self.affine.weight[...] = torch.from_numpy(W.T)
            self.affine.bias[...] = torch.from_numpy(affine_b)

    def forward(self, ids: Any, state: Any) -> tuple[Any, Any]:
        hs, state = self.recurrent(self.embedding(ids), state)
        return self.affine(hs), state

    def textbook_params(self) -> list[Array]:
        """The parameters as arrays, in the order and layout of this package."""
        embedding, W, b = (x.detach().float().numpy() for x in self._outer())
        return [
            embedding,
            *textbook_layout(parameters(self.recurrent, self.cell), self.cell),
            W.T,
            b,
        ]

    def trained(self) -> list[Any]:
        return [*self._outer(), *parameters(self.recurrent, self.cell)]

    def _outer(self) -> tuple[Any, ...]:
        return self.embedding.weight, self.affine.weight, self.affine.bias


class Training:
    model: LanguageModel
    optimizer: Any
    blocks: list[tuple[Any, Any]]
    steps: int
    state: Any

    def __init__(
        self,
        threads: int,
        *,
        cell: str,
        N: int,
        T: int,
        V: int,
        D: int,
        H: int,
        layers: int = 1,
        precision: str | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        params = problems.language_model(cell, V, D, H, num_layers=layers).params
        self.model = LanguageModel(cell, params, layers)
        self.precision = precision
        if precision == "weights":  # which are bf16 then
            for module in (self.model.embedding, self.model.recurrent, self.model.affine):
                module.bfloat16()
        self.optimizer = torch.optim.SGD(self.model.trained(), problems.LEARNING_RATE)
        self.blocks = [
            (torch.from_numpy(xs), torch.from_numpy(ts)) for xs, ts in problems.blocks(N, T, V)
        ]
        self.steps, self.state = 0, None

    def run(self) -> float:
        xs, ts = self.blocks[self.steps % len(self.blocks)]
        self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        with computing(self.precision):
            logits, state = self.model.forward(xs, self.state)
        self.state = (
            tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        )
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ts.flatten())
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def results(self) -> list[Array]:
        return [np.array([self.run() for _ in range(4)], "f"), *self.model.textbook_params()]


class Recipe:
    """The model and the recipe of `rnnfast train`, for so many seconds of training.

    The learning rate falls with the time, so that it is at its end when the time is; what
    validation takes does not count.
    """

    MOST_SECONDS = 50.0  # of an answer

    def __init__(self, threads: int, *, quick: bool, seconds: float = 0.0) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        settings, model, train, valid = problems.recipe(quick)
        self.model = LanguageModel(settings.cell, model.params)
        self.dropout = torch.nn.Dropout(settings.dropout)
        self.optimizer = torch.optim.Adam(self.model.trained(), settings.lr, fused=True)
        self.blocks = Blocks(train, settings.batch, settings.time)
        lanes = min(settings.batch, len(valid) // settings.time)
        self.valid = Blocks(valid, lanes, settings.time)
        self.settings, self.schedule = settings, settings.new_schedule()
        self.seconds, self.budget, self.steps = 0.0, seconds, 0
        self.best = np.inf
        self.state: Any = None

    def mean_loss(self, xs: Ids, ts: Ids) -> Any:
        vectors = self.dropout(self.model.embedding(torch.from_numpy(xs)))
        hs, state = self.model.recurrent(vectors, self.state)
        self.state = tuple(s.detach() for s in state)
        logits = self.model.affine(self.dropout(hs)).flatten(0, 1)
        targets = torch.from_numpy(ts).flatten()
        return torch.nn.functional.cross_entropy(logits, targets, ignore_index=PADDING)

    def step(self, xs: Ids, ts: Ids) -> None:
        done = int(100_000 * min(1.0, self.seconds / self.budget))
        (group,) = self.optimizer.param_groups
        group["lr"] = self.schedule.before_step(
            0,
            peak=self.optimizer.defaults["lr"],
            step=done,
            per_epoch=100_000 // self.settings.epochs,
            epochs=0,
        )
        self.optimizer.zero_grad(set_to_none=True)
        self.mean_loss(xs, ts).backward()
        torch.nn.utils.clip_grad_norm_(self.model.trained(), self.settings.max_grad)
        self.optimizer.step()
        self.steps += 1

    def train(self) -> tuple[float, float, bool]:
        """Train for a while; -> seconds so far, epochs, whether it was the last time."""
        end = min(self.budget, self.seconds + self.MOST_SECONDS)
        while self.seconds < end:
            block = self.steps % len(self.blocks)
            if not block:
                self.state = None
            start = time.perf_counter()
            self.step(*self.blocks[block])
            self.seconds += time.perf_counter() - start
            if self.steps % len(self.blocks) == 0 or self.seconds >= self.budget:
                self.best = min(self.best, self.validate())
        return self.seconds, self.steps / len(self.blocks), self.seconds >= self.budget

    def validate(self) -> float:
        carried, self.state = self.state, None
        self.dropout.eval()
        with torch.inference_mode():
            counts = [int((ts != PADDING).sum()) for _, ts in self.valid]
            losses = [float(self.mean_loss(xs, ts)) for xs, ts in self.valid]
        self.dropout.train()
        self.state = carried
        return float(np.average(losses, weights=counts))

    def loss(self) -> float:
        return self.best

    def results(self) -> list[Array]:
        return [np.array([self.validate()], "f")]


class Generation:
    """One token at a time, drawn by `torch.multinomial`."""

    model: LanguageModel
    length: int

    def __init__(self, threads: int, *, cell: str, V: int, D: int, H: int, length: int) -> None:
        torch.set_num_threads(threads)
        self.model = LanguageModel(cell, problems.writer(cell, V, D, H).params)
        self.length = length

    def run(self) -> None:
        self._generate(lambda logits: torch.multinomial(torch.softmax(logits, 0), 1))

    def results(self) -> list[Array]:
        """Drawn from PyTorch's logits with the random numbers that rnnfast uses."""
        uniforms = iter(np.random.default_rng(0).random(self.length))

        def sample(logits: Any) -> Any:
            return torch.tensor([draw(logits.numpy().astype(np.float64), 1.0, next(uniforms))])

        return [self._generate(sample)]

    def _generate(self, sample: Callable[[Any], Any]) -> Ids:
        token, state = torch.zeros(1, dtype=torch.int64), None
        ids = np.empty(self.length, np.int64)
        with torch.no_grad():
            for k in range(self.length):
                logits, state = self.model.forward(token[None], state)
                token = sample(logits[0, 0])
                ids[k] = token.item()
        return ids


class Embedding:
    W: Any
    xs: Any
    dxs: Any

    def __init__(self, threads: int, *, V: int, D: int, tokens: int) -> None:
        torch.set_num_threads(threads)
        W, ids, dxs = problems.embedding(V, D, tokens)
        self.W = torch.from_numpy(W).requires_grad_()
        self.xs = torch.nn.functional.embedding(torch.from_numpy(ids), self.W)
        self.dxs = torch.from_numpy(dxs)

    def run(self) -> Any:
        return torch.autograd.grad(self.xs, self.W, self.dxs, retain_graph=True)[0]

    def results(self) -> list[Array]:
        return [self.run().numpy()]


class Affine:
    x: Any
    W: Any
    b: Any

    def __init__(self, threads: int, *, N: int, D: int, M: int, tied: bool) -> None:
        torch.set_num_threads(threads)
        x, W, b = problems.affine(N, D, M, tied)
        # (M, D) one row after the other, as PyTorch has it, tied or not
        self.x, self.W, self.b = map(torch.from_numpy, (x, np.ascontiguousarray(W.T), b))

    def run(self) -> Any:
        with torch.inference_mode():
            return torch.nn.functional.linear(self.x, self.W, self.b)

    def results(self) -> list[Array]:
        return [self.run().numpy()]


class Dropout(ours.Dropout):
    xs: Array
    dout: Array
    inputs: Any
    of_output: Any

    def __init__(self, threads: int, *, shape: Sequence[int]) -> None:
        torch.set_num_threads(threads)
        self.xs, self.dout = problems.dropout(shape)
        self.inputs = torch.from_numpy(self.xs).requires_grad_()
        self.of_output = torch.from_numpy(self.dout)

    def run(self) -> list[Array]:
        out = torch.nn.functional.dropout(self.inputs, 0.5)
        (dxs,) = torch.autograd.grad(out, self.inputs, self.of_output)
        return [out.detach().numpy(), dxs.numpy()]


class Attention(ours.Attention):
    """By `scaled_dot_product_attention`, which makes one kernel of it."""

    inputs: Any
    of_output: Any

    def __init__(self, threads: int, *, N: int, S: int, T: int, H: int) -> None:
        torch.set_num_threads(threads)
        enc, dec, dout = map(torch.from_numpy, problems.attention(N, S, T, H))
        self.inputs, self.of_output = (enc.requires_grad_(), dec.requires_grad_()), dout

    def run(self) -> list[Array]:
        enc, dec = self.inputs
        out = torch.nn.functional.scaled_dot_product_attention(dec, enc, enc, scale=1.0)
        grads = torch.autograd.grad(out, self.inputs, self.of_output)
        return [x.detach().numpy() for x in (out, *grads)]


class Step:
    """By `torch.nn.RNNCell` or `LSTMCell`: one step of `torch.nn.LSTM` takes longer (measured)."""

    module: Any
    x: Any
    states: Any

    def __init__(self, threads: int, *, cell: str, N: int, D: int, H: int) -> None:
        torch.set_num_threads(threads)
        x, weights, states = problems.step(cell, N, D, H)
        self.module = {"rnn": torch.nn.RNNCell, "lstm": torch.nn.LSTMCell}[cell](D, H)
        parameters = (self.module.weight_ih, self.module.weight_hh, self.module.bias_ih)
        for parameter, W in zip(parameters, weights, strict=True):
            fill(parameter, W, cell)
        with torch.no_grad():
            self.module.bias_hh.zero_()
        self.x = torch.from_numpy(x)
        h, *c = map(torch.from_numpy, states)
        self.states = (h, *c) if c else h

    def run(self) -> Any:
        with torch.inference_mode():
            return self.module(self.x, self.states)

    def results(self) -> list[Array]:
        states = self.run()
        return [s.numpy() for s in (states if isinstance(states, tuple) else [states])]


class Product:
    A: Any
    B: Any
    C: Any

    def __init__(self, threads: int, *, size: int, precision: str | None = None) -> None:
        torch.set_num_threads(threads)
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.A, self.B = (torch.from_numpy(A).to(dtype) for A in problems.matrices(size))
        self.C = torch.empty_like(self.A)

    def run(self) -> Any:
        return torch.mm(self.A, self.B, out=self.C)

    def results(self) -> list[Array]:
        return [self.run().float().numpy()]
