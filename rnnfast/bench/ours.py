"""What rnnfast does. A task has `run`, which is timed, and `results`, which are compared."""

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import rnnfast
from rnnfast import kernels
from rnnfast._ops import Ops
from rnnfast._types import Array, Ids
from rnnfast.layers import TimeEmbedding, time_layer
from rnnfast.layers.recurrent import TimeRecurrent
from rnnfast.models import Network

from . import problems


class Layer:
    """A recurrent layer, `way` "forward" or "both" (forward and backward)."""

    ops: Ops = kernels
    xs: Array
    dhs: Array
    layer: TimeRecurrent
    run: Callable[[], list[Array]]

    def __init__(
        self, threads: int, *, cell: str, dtype: str, shape: Sequence[int], way: str
    ) -> None:
        rnnfast.set_num_threads(threads)
        self.xs, weights, self.dhs = problems.layer(cell, dtype, shape)
        self.layer = time_layer(cell, *weights, ops=self.ops)
        self.run = getattr(self, way)

    def forward(self) -> list[Array]:
        return [self.layer.forward(self.xs)]

    def both(self) -> list[Array]:
        return [*self.forward(), self.layer.backward(self.dhs), *self.layer.grads]

    def results(self) -> list[Array]:
        return self.run()


class LayerAfterProduct(Layer):
    """The same, called right after a matrix product of a library with threads of its own."""

    before: Callable[[], Any]

    def __init__(self, threads: int, *, library: str, **layer: Any) -> None:
        super().__init__(threads, **layer)
        A, B = problems.matrices(512)
        if library == "torch":
            import torch

            torch.set_num_threads(threads)
            A, B = torch.from_numpy(A), torch.from_numpy(B)
        self.before = lambda: A @ B


class Training:
    """Steps of a language model: forward, backward, SGD."""

    ops: Ops = kernels
    model: Any
    optimizer: rnnfast.SGD
    blocks: list[tuple[Ids, Ids]]
    steps: int

    def __init__(self, threads: int, *, cell: str, N: int, T: int, V: int, D: int, H: int) -> None:
        rnnfast.set_num_threads(threads)
        self.model = problems.language_model(cell, V, D, H, ops=self.ops)
        self.optimizer = rnnfast.SGD(problems.LEARNING_RATE)
        self.blocks, self.steps = problems.blocks(N, T, V), 0

    def run(self) -> float:
        xs, ts = self.blocks[self.steps % len(self.blocks)]
        self.steps += 1
        loss: float = self.model.forward(xs, ts)
        self.model.backward()
        self.update()
        return loss

    def update(self) -> None:
        self.optimizer.update(self.model.params, self.model.grads)

    def results(self) -> list[Array]:
        """Losses of four steps, and the parameters after them."""
        return [np.array([self.run() for _ in range(4)], "f"), *self.model.params]

    def peak(self) -> int:
        """Bytes that two first steps have allocated at most (all memory comes from NumPy)."""
        tracemalloc.start()
        self.run()
        self.run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak


class Generation:
    """Sampling of `length` tokens from a language model."""

    model: Network
    length: int

    def __init__(self, threads: int, *, V: int, D: int, H: int, length: int) -> None:
        rnnfast.set_num_threads(threads)
        self.model, self.length = problems.language_model("lstm", V, D, H), length

    def run(self) -> Ids:
        rng = np.random.default_rng(0)
        return rnnfast.generate(self.model, [0], self.length, rng=rng)

    def results(self) -> list[Array]:
        return [self.run()]


class Embedding:
    """Gradient of an embedding's table."""

    dxs: Array
    layer: TimeEmbedding

    def __init__(self, threads: int, *, V: int, D: int, tokens: int) -> None:
        rnnfast.set_num_threads(threads)
        W, ids, self.dxs = problems.embedding(V, D, tokens)
        self.layer = rnnfast.TimeEmbedding(W)
        self.layer.forward(ids)

    def run(self) -> None:
        self.layer.backward(self.dxs)

    def results(self) -> list[Array]:
        self.run()
        return self.layer.grads


class Product:
    """A matrix product, by the kernel of the affine layer: it has all threads, and a bias."""

    A: Array
    B: Array
    b: Array

    def __init__(self, threads: int, *, size: int) -> None:
        rnnfast.set_num_threads(threads)
        self.A, self.B = problems.matrices(size)
        self.b = np.zeros(size, "f")

    def run(self) -> Array:
        return kernels.affine_forward(self.A, self.B, self.b)

    def results(self) -> list[Array]:
        return [self.run()]
