"""What PyTorch does, with the weights of this package."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .._types import Array, Ids
from ..reference.ops import draw
from . import problems

ORDER = {"rnn": [0], "lstm": [2, 0, 1, 3]}  # PyTorch's i, f, g, o out of our f, g, i, o


def reordered(W: Array, order: Sequence[int] | Ids) -> Array:
    """Gates, blocks of the last axis, in another order."""
    parts = np.split(W, len(order), -1)
    return np.concatenate([parts[k] for k in order], -1)


def recurrent(cell: str, Wx: Array, Wh: Array, b: Array) -> Any:
    """`torch.nn.RNN` or `LSTM`; the textbook's layer has one bias, so the second is fixed at 0."""
    order, (D, H) = ORDER[cell], (len(Wx), len(Wh))
    kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell]
    layer = kind(D, H, batch_first=True, dtype=torch.from_numpy(Wx).dtype)
    with torch.no_grad():
        layer.weight_ih_l0[...] = torch.from_numpy(reordered(Wx, order).T)
        layer.weight_hh_l0[...] = torch.from_numpy(reordered(Wh, order).T)
        layer.bias_ih_l0[...] = torch.from_numpy(reordered(b, order))
        layer.bias_hh_l0[...] = 0
    layer.bias_hh_l0.requires_grad_(False)
    return layer


def parameters(layer: Any) -> tuple[Any, ...]:
    """Those of `recurrent` that are trained."""
    return layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0


def textbook_layout(tensors: Sequence[Any], cell: str) -> list[Array]:
    """Parameters, or their gradients, as arrays in the layout of this package."""
    back = np.argsort(ORDER[cell])
    return [reordered(W.detach().numpy().T, back) for W in tensors]


class Layer:
    layer: Any
    cell: str
    xs: Any
    dhs: Any
    run: Callable[[], Any]

    def __init__(
        self, threads: int, *, cell: str, dtype: str, shape: Sequence[int], way: str
    ) -> None:
        torch.set_num_threads(threads)
        xs, weights, dhs = problems.layer(cell, dtype, shape)
        self.layer, self.cell = recurrent(cell, *weights), cell
        self.xs = torch.from_numpy(xs).requires_grad_(way == "both")
        self.dhs = torch.from_numpy(dhs)
        self.run = getattr(self, way)

    def forward(self) -> Any:
        with torch.no_grad():
            return self.layer(self.xs)[0]

    def both(self) -> Any:
        self.layer.zero_grad(set_to_none=True)
        self.xs.grad = None
        hs, _ = self.layer(self.xs)
        hs.backward(self.dhs)
        return hs

    def results(self) -> list[Array]:
        hs = self.run().detach().numpy()
        if self.xs.grad is None:
            return [hs]
        grads = textbook_layout([W.grad for W in parameters(self.layer)], self.cell)
        return [hs, self.xs.grad.numpy(), *grads]


class LanguageModel:
    embedding: Any
    affine: Any
    recurrent: Any
    cell: str

    def __init__(self, cell: str, V: int, D: int, H: int) -> None:
        embed_W, Wx, Wh, b, W, affine_b = problems.language_model(cell, V, D, H).params
        self.embedding, self.affine = torch.nn.Embedding(V, D), torch.nn.Linear(H, V)
        self.recurrent, self.cell = recurrent(cell, Wx, Wh, b), cell
        with torch.no_grad():
            self.embedding.weight[...] = torch.from_numpy(embed_W)
            self.affine.weight[...] = torch.from_numpy(W.T)
            self.affine.bias[...] = torch.from_numpy(affine_b)

    def forward(self, ids: Any, state: Any) -> tuple[Any, Any]:
        hs, state = self.recurrent(self.embedding(ids), state)
        return self.affine(hs), state

    def textbook_params(self) -> list[Array]:
        """The parameters as arrays, in the order and layout of this package."""
        embedding, W, b = (x.detach().numpy() for x in self._outer())
        return [embedding, *textbook_layout(parameters(self.recurrent), self.cell), W.T, b]

    def trained(self) -> list[Any]:
        return [*self._outer(), *parameters(self.recurrent)]

    def _outer(self) -> tuple[Any, ...]:
        return self.embedding.weight, self.affine.weight, self.affine.bias


class Training:
    model: LanguageModel
    optimizer: Any
    blocks: list[tuple[Any, Any]]
    steps: int
    state: Any

    def __init__(self, threads: int, *, cell: str, N: int, T: int, V: int, D: int, H: int) -> None:
        torch.set_num_threads(threads)
        self.model = LanguageModel(cell, V, D, H)
        self.optimizer = torch.optim.SGD(self.model.trained(), problems.LEARNING_RATE)
        self.blocks = [
            (torch.from_numpy(xs), torch.from_numpy(ts)) for xs, ts in problems.blocks(N, T, V)
        ]
        self.steps, self.state = 0, None

    def run(self) -> float:
        xs, ts = self.blocks[self.steps % len(self.blocks)]
        self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        logits, state = self.model.forward(xs, self.state)
        self.state = (
            tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        )
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ts.flatten())
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def results(self) -> list[Array]:
        return [np.array([self.run() for _ in range(4)], "f"), *self.model.textbook_params()]


class Generation:
    """One token at a time, drawn by `torch.multinomial`."""

    model: LanguageModel
    length: int

    def __init__(self, threads: int, *, V: int, D: int, H: int, length: int) -> None:
        torch.set_num_threads(threads)
        self.model, self.length = LanguageModel("lstm", V, D, H), length

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


class Product:
    A: Any
    B: Any
    C: Any

    def __init__(self, threads: int, *, size: int) -> None:
        torch.set_num_threads(threads)
        self.A, self.B = map(torch.from_numpy, problems.matrices(size))
        self.C = torch.empty_like(self.A)

    def run(self) -> Any:
        return torch.mm(self.A, self.B, out=self.C)

    def results(self) -> list[Array]:
        return [self.run().numpy()]
