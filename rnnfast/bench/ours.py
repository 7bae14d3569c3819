"""What rnnfast does. A task has `run`, which is timed, and `results`, which are compared."""

import tracemalloc

import numpy as np

import rnnfast
from rnnfast import kernels
from rnnfast.layers import TIME_LAYERS

from . import problems


class Layer:
    """A recurrent layer, `way` "forward" or "both" (forward and backward)."""

    ops = kernels

    def __init__(self, threads, *, cell, dtype, shape, way):
        rnnfast.set_num_threads(threads)
        self.xs, weights, self.dhs = problems.layer(cell, dtype, shape)
        self.layer = TIME_LAYERS[cell](*weights, ops=self.ops)
        self.run = getattr(self, way)

    def forward(self):
        return [self.layer.forward(self.xs)]

    def both(self):
        return [*self.forward(), self.layer.backward(self.dhs), *self.layer.grads]

    def results(self):
        return self.run()


class LayerAfterProduct(Layer):
    """The same, called right after a matrix product of a library with threads of its own."""

    def __init__(self, threads, *, library, **layer):
        super().__init__(threads, **layer)
        A, B = problems.matrices(512)
        if library == "torch":
            import torch

            torch.set_num_threads(threads)
            A, B = torch.from_numpy(A), torch.from_numpy(B)
        self.before = lambda: A @ B


class Training:
    """Steps of a language model: forward, backward, SGD."""

    ops = kernels

    def __init__(self, threads, *, cell, N, T, V, D, H):
        rnnfast.set_num_threads(threads)
        self.model = problems.language_model(cell, V, D, H, ops=self.ops)
        self.optimizer = rnnfast.SGD(problems.LEARNING_RATE)
        self.blocks, self.steps = problems.blocks(N, T, V), 0

    def run(self):
        xs, ts = self.blocks[self.steps % len(self.blocks)]
        self.steps += 1
        loss = self.model.forward(xs, ts)
        self.model.backward()
        self.update()
        return loss

    def update(self):
        self.optimizer.update(self.model.params, self.model.grads)

    def results(self):
        """Losses of four steps, and the parameters after them."""
        return [np.array([self.run() for _ in range(4)], "f"), *self.model.params]

    def peak(self):
        """Bytes that two first steps have allocated at most (all memory comes from NumPy)."""
        tracemalloc.start()
        self.run()
        self.run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak


class Generation:
    """Sampling of `length` tokens from a language model."""

    def __init__(self, threads, *, V, D, H, length):
        rnnfast.set_num_threads(threads)
        self.model, self.length = problems.language_model("lstm", V, D, H), length

    def run(self):
        rng = np.random.default_rng(0)
        return rnnfast.generate(self.model, [0], self.length, rng=rng)

    def results(self):
        return [self.run()]


class Embedding:
    """Gradient of an embedding's table."""

    def __init__(self, threads, *, V, D, tokens):
        rnnfast.set_num_threads(threads)
        W, ids, self.dxs = problems.embedding(V, D, tokens)
        self.layer = rnnfast.TimeEmbedding(W)
        self.layer.forward(ids)

    def run(self):
        self.layer.backward(self.dxs)

    def results(self):
        self.run()
        return self.layer.grads


class Product:
    """A matrix product, by the kernel of the affine layer: it has all threads, and a bias."""

    def __init__(self, threads, *, size):
        rnnfast.set_num_threads(threads)
        self.A, self.B = problems.matrices(size)
        self.b = np.zeros(size, "f")

    def run(self):
        return kernels.affine_forward(self.A, self.B, self.b)

    def results(self):
        return [self.run()]
