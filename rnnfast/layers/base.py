"""What every layer has: parameters, their gradients, and checks of both."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Signature, signature
from operator import is_
from typing import Any, TypeVar, cast

import numpy as np

from .._checks import aligned, as_batch_part, as_precision, as_weights, check_shape
from .._ops import HasOps, Ops
from .._types import Array, ArrayLike, BatchPart, Precision, Sizes

F = TypeVar("F", bound=Callable[..., Any])


class Layer(HasOps):
    """`params`, `grads`, and what `backward` needs of the last `forward`.

    `params[i][...]` may be changed at any time between backward and forward. Between forward and
    backward it should not be: backward takes what it needs of the outputs from forward and the
    weights as they are then, so that its gradients would be those of neither. Where another array
    has been put into the list since forward, backward raises an error.

    Parameters
    ----------
    ops : module with the arithmetic, for layers that take it from one; see `rnnfast.layers`
    **weights : arrays, float32 or float64, by their names
        A layer may have none.

    Attributes
    ----------
    params, grads : lists of arrays, which keep their identity
    training : bool
        For layers that treat training and evaluation differently: which of the two it is.
    batch_part : tuple of two int, or None
        (first row, rows of the whole batch) where the rows that come are a part of a batch, of
        which other processes have the rest; None where they are all. For layers that draw masks:
        they draw those that the whole batch would have in these rows.

    Examples
    --------
    A layer of one's own is made of `forward` and `backward`:

    >>> import numpy as np, rnnfast
    >>> class Scale(rnnfast.Layer):
    ...     def __init__(self, w):
    ...         super().__init__(w=w)
    ...     def forward(self, xs):
    ...         self.xs = xs
    ...         return xs * self.params[0]
    ...     def backward(self, dout):
    ...         self.grads[0][...] = (dout * self.xs).sum(axis=(0, 1))
    ...         return dout * self.params[0]
    >>> network = rnnfast.Network([Scale(np.array([2.0, 3.0]))], rnnfast.TimeSquaredLoss())
    >>> network.predict(np.ones((1, 1, 2)))
    array([[[2., 3.]]])
    >>> list(network.named_params())
    ['0.w']
    """

    params: list[Array]
    grads: list[Array]
    training: bool = True
    _batch_part: BatchPart = None
    _shape_hint = ""
    """What an error says of weights whose shapes do not fit."""
    _products: Mapping[str, Precision] = {}
    """Keyword arguments of functions of `ops` with products."""
    forward: Callable[..., Any]
    backward: Callable[..., Any]

    def __init__(self, ops: Ops | None = None, **weights: ArrayLike) -> None:
        super().__init__(ops)
        self._names = tuple(weights)
        self.params = list(as_weights(**weights)) if weights else []
        self.grads = [np.zeros_like(W) for W in self.params]
        self._sizes = [W.shape for W in self.params]
        # that of the weights, once they have been found good
        self._dtype: np.dtype[Any] | None = None
        # Each of these is set in one assignment: threads that call one layer at once leave what
        # one of them has made, and never parts of several.
        # what backward needs, and the weights that it was made with
        self._kept: tuple[Any, tuple[Array, ...]] | None = None
        # what a kernel may use again for its own memory, see `_take_memory`
        self._memory: Any = None
        # params and grads that were found good, and these params, aligned
        self._good: tuple[tuple[Array, ...], tuple[Array, ...]] | None = None
        self._checked_params()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the weights, and so of everything that the layer returns.

        Raises AttributeError where there are no weights: what comes in has the dtype then.
        """
        if not self.params:
            raise AttributeError(f"dtype: {type(self).__name__} has no weights that have one")
        return self.params[0].dtype

    @property
    def batch_part(self) -> BatchPart:
        """(first row, rows of the whole batch) of the rows that come, or None where they are all.

        Setting it raises ValueError unless 0 <= first row < rows.
        """
        return self._batch_part

    @batch_part.setter
    def batch_part(self, part: BatchPart) -> None:
        self._batch_part = as_batch_part(part)

    def named_params(self) -> dict[str, Array]:
        """`params` by name, such as {"W": array, "b": array}, in their order."""
        return dict(zip(self._names, self.params, strict=True))

    def named_grads(self) -> dict[str, Array]:
        """`grads` by the names of the parameters, in their order."""
        return dict(zip(self._names, self.grads, strict=True))

    def config(self) -> dict[str, Any]:
        """Keyword arguments, as JSON has them, that make the layer again from its weights."""
        return {}

    def _shapes(self) -> tuple[Sizes, ...]:
        """Shapes that the weights must have, in the order of `params`, from their own sizes."""
        return tuple(self._sizes)

    def _checked_params(self) -> tuple[Array, ...]:
        """`params`, aligned, whose entries, like those of `grads`, somebody may have replaced.

        Small layers must not spend their time on checks: the arrays that were good before are
        good, since nobody changes the shape of an array in place, and the kernels would tell.
        """
        params, grads = self.params, self.grads
        if (good := self._good) is not None:
            found, weights = good
            # as `same` does it, without the call
            if len(params) == len(grads) == len(weights) and all(
                map(is_, (*params, *grads), found)
            ):
                return weights
        for name, arrays in (("params", self.params), ("grads", self.grads)):
            if len(arrays) != len(self._names):
                raise ValueError(
                    f"{name}: expected {len(self._names)} arrays ({', '.join(self._names)}), "
                    f"got {len(arrays)}; leave the arrays in {name}, and write into them"
                )
            for label, array in zip(self._names, arrays, strict=True):
                if not isinstance(array, np.ndarray):
                    raise TypeError(
                        f"{label if name == 'params' else 'gradient of ' + label}: expected a "
                        f"writable array, got {type(array).__name__}; leave the arrays in {name}, "
                        "and write into them"
                    )
        if len({id(dW) for dW in self.grads}) < len(self.grads):
            raise ValueError(
                "grads: expected an array of its own for every parameter, got one twice; leave the "
                "arrays in grads, and write into them"
            )
        if not self._names:
            return ()
        weights = as_weights(**self.named_params())
        for name, W, shape in zip(self._names, weights, self._shapes(), strict=True):
            check_shape(name, W, shape, self._shape_hint)
        # the kernels trust that gradients, and what forward kept, fit the weights of now
        dtype = weights[0].dtype
        retyped = dtype != self._dtype and all(dW.dtype == dtype for dW in self.grads)
        retyped = retyped and not self._products  # operands that are rounded have one dtype
        for name, W, dW, size in zip(self._names, weights, self.grads, self._sizes, strict=True):
            if W.shape != size or (W.dtype != self._dtype and not retyped):
                raise ValueError(
                    f"{name}: expected shape {size} and dtype {self._dtype} as when the layer was "
                    f"made, got {W.shape} and {W.dtype}; make a new layer for other weights"
                )
            if (dW.shape, dW.dtype) != (W.shape, W.dtype):
                raise ValueError(
                    f"gradient of {name}: expected shape {W.shape} and dtype {W.dtype} as {name} "
                    f"has, got {dW.shape} and {dW.dtype}; leave the arrays in grads, and write "
                    "into them"
                )
        self._dtype = dtype
        if all(W.flags.aligned for W in weights):
            self._good = (*self.params, *self.grads), weights
        return tuple(map(aligned, weights))

    def _writable_grads(self) -> list[Array]:
        """`grads`, which a layer out of a file or another process may have read-only."""
        for name, dW in zip(self._names, self.grads, strict=True):
            if not dW.flags.behaved:
                raise TypeError(
                    f"gradient of {name}: expected a writable array, got one that is read-only or "
                    "not aligned; leave the arrays in grads, and write into them"
                )
        return self.grads

    def _keep(self, cache: Any) -> None:
        """At the end of forward: what backward needs, and which weights it was made with."""
        self._kept = cache, tuple(self.params)

    def _take_memory(self) -> Any:
        """At the call of a kernel: `_memory`, which nobody else gets until it is put back."""
        return self.__dict__.pop("_memory", None)

    def _require_kept(self, asked: str) -> tuple[Any, tuple[Array, ...]]:
        """What forward kept, and the weights that it was made with, for who asks."""
        if (kept := self._kept) is None:
            raise RuntimeError(
                f"{type(self).__name__}.{asked}: expected a forward call before it, with "
                "gradient and the same ops, got none; call forward first"
            )
        return kept

    def _require_cache(self) -> Any:
        """At the beginning of backward: what forward kept."""
        cache, params = self._require_kept("backward")
        if not same(self.params, params):
            others = zip(self._names, self.params, params, strict=False)
            name = next((name for name, now, then in others if now is not then), "params")
            raise RuntimeError(
                f"{type(self).__name__}.backward: expected the weights of the last forward call, "
                f"got another array as {name}; call forward first"
            )
        return cache


class Multiplying(Layer):
    """A layer with products, whose operands may be rounded.

    With the precision "bfloat16", all operands of products are rounded to bf16 as they are read,
    forward and backward: to the nearest, ties to even. Weights, states, sums, biases, gradients and
    what an optimizer keeps stay float32. Gradients are those of the rounded operands, and pass the
    rounding as they are (straight through).
    """

    def __init__(self, ops: Ops | None, precision: Precision | None, **weights: ArrayLike) -> None:
        super().__init__(ops, **weights)
        rounded = as_precision(precision, self.dtype)
        self._products = {"precision": rounded} if rounded else {}

    @property
    def precision(self) -> Precision:
        """What operands of products have: "bfloat16", or the dtype of the weights."""
        return self._products.get("precision", cast(Precision, self.dtype.name))

    def config(self) -> dict[str, Any]:
        return {**super().config(), **self._products}


def same(arrays: Sequence[Array | None], others: Sequence[Array | None]) -> bool:
    """Whether two sequences hold the same objects."""
    return len(arrays) == len(others) and all(map(is_, arrays, others))


def hands_on(base: Callable[..., Any]) -> Callable[[F], F]:
    """Decorator of a constructor that hands options on to `base`, a class or a function: let `help`
    and `inspect.signature` show them by their names."""

    def decorate(init: F) -> F:
        own = {
            p.name: p for p in signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD
        }
        of_base = signature(base).parameters.values()
        options = {p.name: p for p in of_base if p.kind is p.KEYWORD_ONLY and p.name not in own}
        vars(init)["__signature__"] = Signature([*own.values(), *options.values()])
        return init

    return decorate
