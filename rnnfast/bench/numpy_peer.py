"""What NumPy does: the twins of `rnnfast.reference`, and NumPy's own functions.

How many threads its matrix products use was said to BLAS before this process started.
"""

from typing import Any

import numpy as np

from rnnfast import reference
from rnnfast._types import Array, Ids

from . import ours, problems


class Layer(ours.Layer):
    ops = reference.ops


class LayerAfterProduct(ours.LayerAfterProduct):
    ops = reference.ops


class FaintLayer(ours.FaintLayer):
    ops = reference.ops


class Update(ours.Update):
    ops = reference.ops


class Loss(ours.Loss):
    ops = reference.ops


class Training(ours.Training):
    ops = reference.ops

    def update(self) -> None:
        params, grads = self.model.params, self.model.grads
        self.ops.sgd_step(params, grads, [()] * len(params), None, 1.0, problems.LEARNING_RATE)


class SharedTraining(ours.SharedTraining):
    ops = reference.ops


class WideTable(ours.WideTable):
    ops = reference.ops


class Embedding:
    """`np.add.at` into an array that is set to zero first."""

    ids: Ids
    dxs: Array

    def __init__(self, _threads: int, *, V: int, D: int, tokens: int) -> None:
        W, self.ids, self.dxs = problems.embedding(V, D, tokens)
        self.dW: Array = np.empty_like(W)

    def run(self) -> None:
        self.dW[...] = 0
        np.add.at(self.dW, self.ids, self.dxs)

    def results(self) -> list[Array]:
        self.run()
        return [self.dW]


class Affine(ours.Affine):
    ops = reference.ops


class Step(ours.Step):
    ops = reference.ops


class Product(ours.Product):
    """By NumPy's own product, where nothing is rounded."""

    ops = reference.ops
    C: Array

    def __init__(self, threads: int, **options: Any) -> None:
        super().__init__(threads, **options)
        self.C = np.empty_like(self.A)

    def run(self) -> Array:
        if self.precision is not None:
            return super().run()
        np.matmul(self.A, self.B, out=self.C)
        return self.C
