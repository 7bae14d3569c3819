"""Optimizers with the book's attributes: what they keep for each parameter are lists of arrays,
which may be read and set, or None before the first update. The steps are those of the library.
"""

from collections.abc import Sequence

import numpy as np

from .._types import Array
from ..reference.optimizer_steps import Rows
from ..training import optimizers
from ..training.optimizers import SGD
from .config import GPU

__all__ = ["GPU", "SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop", "np"]


class _Lists(optimizers._Optimizer):
    """The arrays of `slots` as lists, by these names; `state` is made of them."""

    @property
    def state(self) -> list[tuple[Array, ...]]:
        """For each parameter the arrays of the lists."""
        lists = [getattr(self, name) for name in self.slots]
        return [] if any(own is None for own in lists) else [*zip(*lists, strict=True)]

    @state.setter
    def state(self, state: list[tuple[Array, ...]]) -> None:
        for k, name in enumerate(self.slots):
            setattr(self, name, [arrays[k] for arrays in state] or None)

    def update(self, params: Sequence[Array], grads: Sequence[Array], rows: Rows = None) -> None:
        """Take one step; params and grads are lists of arrays of matching shapes, `rows` as in
        `rnnfast.training.optimizers`."""
        given = [getattr(self, name) for name in self.slots]
        if self.steps or any(arrays is not None for arrays in given):
            for name, arrays in zip(self.slots, given, strict=True):
                if arrays is None:
                    setattr(self, name, [*map(np.zeros_like, params)])
            self.steps = max(self.steps, 1)  # at 0 the library begins anew
        super().update(params, grads, rows)


class Momentum(_Lists, optimizers.Momentum):
    """v = momentum v - lr dW;  W += v"""

    v: list[Array] | None = None


class Nesterov(Momentum):
    """v = momentum v - lr dW;  W += momentum^2 v - (1 + momentum) lr dW

    This is the book's formula. Nesterov's method in this form has, in place of v after the step,
    that before it.
    """

    _function = "nesterov_step"


class AdaGrad(_Lists, optimizers.AdaGrad):
    """h += dW^2;  W -= lr dW / (sqrt(h) + 1e-7)   (Duchi et al. 2011)"""

    h: list[Array] | None = None


class RMSprop(_Lists, optimizers.RMSprop):
    """h = decay_rate h + (1 - decay_rate) dW^2;  W -= lr dW / (sqrt(h) + 1e-7)

    (Tieleman and Hinton 2012)
    """

    h: list[Array] | None = None


class Adam(_Lists, optimizers.Adam):
    """m += (1 - beta1) (dW - m);  v += (1 - beta2) (dW^2 - v);  W -= lr_t m / (sqrt(v) + 1e-7)

    with lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t) at step t, which is `iter` after it (Kingma and
    Ba 2015, section 2). Where m or v are set, so should be `iter`, to at least 1.
    """

    m: list[Array] | None = None
    v: list[Array] | None = None

    @property
    def iter(self) -> int:
        """How many updates there were; may be set."""
        return self.steps

    @iter.setter
    def iter(self, steps: int) -> None:
        self.steps = steps
