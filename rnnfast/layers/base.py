"""What every layer has: parameters, their gradients, and checks of both."""

import numpy as np

from .. import kernels
from .._checks import aligned, as_weights, check_shape
from .._ops import HasOps


class Layer(HasOps):
    """`params`, `grads`, and what `backward` needs of the last `forward`.

    `training` tells a layer that treats training and evaluation differently which of the two it
    is in.
    """

    training = True

    def __init__(self, ops=kernels, **weights):
        self.ops = ops
        self._names = tuple(weights)
        self.params = list(as_weights(**weights))
        self.grads = [np.zeros_like(W, subok=False) for W in self.params]
        self._sizes = [W.shape for W in self.params]
        self._dtype = self.params[0].dtype
        self._cache = None
        self._check_params()

    @property
    def dtype(self):
        """Dtype of the weights, and so of everything that the layer returns."""
        return self.params[0].dtype

    def named_params(self):
        """`params` by name, such as {"W": array, "b": array}, in their order."""
        return dict(zip(self._names, self.params, strict=True))

    def named_grads(self):
        """`grads` by the names of the parameters, in their order."""
        return dict(zip(self._names, self.grads, strict=True))

    def config(self):
        """Keyword arguments, as JSON has them, that make the layer again from its weights."""
        return {}

    def _shapes(self):
        """Shapes that the weights must have, in the order of `params`, from their own sizes."""
        raise NotImplementedError

    def _checked_params(self):
        """`params`, whose entries somebody may have replaced since they were last looked at."""
        if self._as_made():
            return self.params
        return self._check_params()

    def _as_made(self):
        """Whether weights and gradients have the types and sizes that were checked before: as
        nearly always, and small layers must not spend their time on checks."""
        if not len(self.params) == len(self.grads) == len(self._sizes):
            return False
        return all(
            type(W) is type(dW) is np.ndarray
            and W.shape == dW.shape == size
            and W.dtype == dW.dtype == self._dtype
            and W.flags.aligned
            and dW.flags.behaved
            for W, dW, size in zip(self.params, self.grads, self._sizes, strict=True)
        )

    def _check_params(self):
        """`params`, aligned, or an error that says what is wrong with which of them."""
        for name, arrays in (("params", self.params), ("grads", self.grads)):
            if len(arrays) != len(self._names):
                raise ValueError(
                    f"{name}: expected {len(self._names)} arrays ({', '.join(self._names)}), "
                    f"got {len(arrays)}; leave the arrays in {name}, and write into them"
                )
        for name, W in zip(self._names, self.params, strict=True):
            if not isinstance(W, np.ndarray):
                raise TypeError(
                    f"{name}: expected an array, got {type(W).__name__}; "
                    "leave the arrays in params, and write into them"
                )
        weights = as_weights(**dict(zip(self._names, self.params, strict=True)))
        for name, W, shape in zip(self._names, weights, self._shapes(), strict=True):
            check_shape(name, W, shape)
        # the kernels trust that gradients, and what forward kept, fit the weights of now
        for name, W, dW, size in zip(self._names, weights, self.grads, self._sizes, strict=True):
            if not isinstance(dW, np.ndarray) or not dW.flags.behaved:
                array = isinstance(dW, np.ndarray)
                got = "one that is read-only or not aligned" if array else type(dW).__name__
                raise TypeError(
                    f"gradient of {name}: expected a writable array, got {got}; "
                    "leave the arrays in grads, and write into them"
                )
            if W.shape != size or (W.shape, W.dtype) != (dW.shape, dW.dtype):
                raise ValueError(
                    f"{name}: expected shape {size} and dtype {dW.dtype} as when the layer was "
                    f"made, got {W.shape} and {W.dtype} with a gradient of shape {dW.shape}; "
                    "make a new layer for other weights"
                )
        return tuple(map(aligned, weights))

    def _require_cache(self):
        if self._cache is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward: expected a forward call before it, with the "
                "same ops, got none; call forward first"
            )
        return self._cache
