"""What the layers of this namespace are made of.

Letters in shapes: N batch rows, T time steps, H hidden size.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._types import Array, ArrayLike, Shape
from ..layers import Layer


class Plain:
    """`params` and `grads`, lists of arrays, which may be of any dtype."""

    params: list[Array]
    grads: list[Array]

    def __init__(self, *weights: ArrayLike) -> None:
        self.params = [np.asarray(W) for W in weights]
        self.grads = [np.zeros_like(W) for W in self.params]


class Over(Plain):
    """A layer of the library, which may get weights of different dtypes.

    The layer has the dtype of the matrices among them. An array of another dtype has a stand-in:
    its numbers are copied there before a call, and its gradient back from there after `backward`.
    """

    _layer: Any
    _stand_ins: list[int]

    def __init__(self, make: Callable[..., Layer], *weights: ArrayLike, **options: Any) -> None:
        super().__init__(*weights)
        matrices = (W.dtype for W in self.params if W.ndim > 1)
        dtype = np.result_type(np.float32, *matrices)
        self._stand_ins = [k for k, W in enumerate(self.params) if W.dtype != dtype]
        own = make(*(W.astype(dtype, copy=False) for W in self.params), **options)
        if not self._stand_ins and len(own.params) == len(self.params):
            self.params, self.grads = own.params, own.grads
        self._layer = own

    def _take_weights(self) -> Any:
        """The layer, before a call, with the weights as they are now."""
        own = self._layer
        if self.params is own.params and self.grads is own.grads:
            return own
        for k, (W, dW) in enumerate(zip(self.params, self.grads, strict=True)):
            if k in self._stand_ins:
                own.params[k][...] = W
            else:  # somebody may have put another array there: the layer judges it
                own.params[k], own.grads[k] = W, dW
        return own

    def _return_gradients(self) -> None:
        """After backward."""
        for k in self._stand_ins:
            self.grads[k][...] = self._layer.grads[k]


def widened(state: ArrayLike | None, shape: Shape) -> ArrayLike | None:
    """A state, or its gradient, of one row or of none, for every row of `shape` (N, H); None stays.
    Any other is as it was: the layer judges it."""
    if state is None:
        return None
    found = np.shape(state)
    if found == shape or found not in ((), shape[1:], (1, *shape[1:])):
        return state
    return np.broadcast_to(state, shape)


def lengthened(dout: ArrayLike, steps: int) -> Array:
    """The gradient (N, t, ...) of the first t steps as one of all: that of the others is 0."""
    dout = np.asarray(dout)
    if dout.ndim < 2 or dout.shape[1] >= steps:
        return dout
    full = np.zeros((len(dout), steps, *dout.shape[2:]), dout.dtype)
    full[:, : dout.shape[1]] = dout
    return full
