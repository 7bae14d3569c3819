"""Optimizers with the textbook's interface: `update(params, grads)` changes the params in place.

State is made at the first update, one entry for each parameter, in the order of the list; hand the
same list to every call. `state` is what a checkpoint must keep besides `lr`.

`weight_decay`, where there is one, is decoupled (Loshchilov and Hutter 2019): at every step, before
the formula, W *= 1 - lr weight_decay, for arrays of two axes or more, and so not for biases. With
SGD that is the same as a penalty of weight_decay / 2 times the sum of their squares; with the
others it is not.

`rows`, an argument of `update` and of clipping, says for each parameter which rows of its gradient
may differ from zero: None for all, or their numbers, an int64 array in increasing order, for arrays
of two axes or more. Other rows of the gradient are then not read. `Network.grad_rows` returns such
a list. SGD and AdaGrad leave weights alone whose gradient is 0, so that they need not touch other
rows: the results are the same to the bit. So it is in none of the other formulas, nor with weight
decay. These ignore `rows`, unless they are made with `lazy=True`: a row is then updated, decays and
has its state updated in the steps only that it is named in. That is an approximation: the moments
of rows that do not occur are kept as they are, where they would fade and still move the weights.

`ops`, keyword-only, is where the steps are taken from: the compiled `rnnfast.kernels` unless told
otherwise, or `rnnfast.reference.ops`, the same in NumPy. Arrays that the compiled steps do not take
(of another dtype, or with gaps) get those in NumPy anyway.
"""

import math
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from .._checks import as_above_zero, as_bool, as_fraction, as_real
from .._ops import HasOps, Ops
from .._types import Array, Ids
from ..reference import ops as numpy_ops
from ..reference.optimizer_steps import Rows


class _Optimizer(HasOps):
    """`slots` are names of the arrays that an optimizer keeps for each parameter.

    Attributes
    ----------
    lr : learning rate; may be set
    weight_decay : float; may be set
    lazy : bool
    steps : how many updates there were
    state : list of tuples of arrays, for each parameter those of `slots`
    """

    slots: ClassVar[tuple[str, ...]] = ()
    _function: ClassVar[str]
    """Its step in `ops`."""
    _keeps_still: ClassVar[bool] = False
    """Whether a gradient of 0 changes nothing."""
    lr: float
    weight_decay: float
    lazy: bool
    steps: int
    state: list[tuple[Array, ...]]

    def __init__(
        self, lr: float, ops: Ops | None, weight_decay: float = 0.0, lazy: bool = False
    ) -> None:
        super().__init__(ops)
        self.lr = as_above_zero("lr", lr)
        self.weight_decay = _as_decay(weight_decay)
        self.lazy = as_bool("lazy", lazy)
        self.steps = 0
        self.state = []

    @property
    def takes_rows(self) -> bool:
        """Whether `update` reads and writes no more than the rows that it is given."""
        return self.lazy or (self._keeps_still and not self.weight_decay)

    def update(self, params: Sequence[Array], grads: Sequence[Array], rows: Rows = None) -> None:
        """Take one step; params and grads are lists of arrays of matching shapes.

        `rows` are those of the gradients that may differ from zero, see
        `rnnfast.training.optimizers`; without `takes_rows` they are ignored.

        Raises ValueError where arrays or rows do not fit; nothing has changed then.
        """
        if not self.takes_rows:
            rows = None
        steps, state, ops = self.steps + 1, self.state, self.ops
        numbers = 1 - self.lr * self.weight_decay, *self._numbers(steps)
        if steps == 1:
            self._check(params, grads)
            state = [tuple(np.zeros_like(W) for _ in self.slots) for W in params]
        # the compiled steps look at the arrays themselves, and take all or none
        step = getattr(ops, self._function) if ops is kernels else None
        if step is None or not step(params, grads, state, rows, *numbers):
            self._check(params, grads)
            rows = _checked_rows(params, rows)
            changed = [*params, *chain(*state)]
            _one_by_one(self._function, ops, (params, grads, state, rows), numbers, changed)
        self.steps, self.state = steps, state

    def _check(self, params: Sequence[Array], grads: Sequence[Array]) -> None:
        if len(params) != len(grads):
            raise ValueError(f"grads: expected {len(params)} arrays as in params, got {len(grads)}")
        for k, (W, dW) in enumerate(zip(params, grads, strict=True)):
            if W.shape != dW.shape or dW.dtype.kind not in "fiub":
                raise ValueError(
                    f"grads[{k}]: expected real numbers of shape {W.shape}, "
                    f"got {dW.dtype} {dW.shape}"
                )
            _require_writable(f"params[{k}]", W)
        if not self.steps:
            return
        if len(self.state) != len(params):
            raise ValueError(
                f"params: expected the {len(self.state)} arrays of the first update, "
                f"got {len(params)}; use one optimizer for each list of params"
            )
        for k, (W, slots) in enumerate(zip(params, self.state, strict=True)):
            for slot in slots:
                if slot.shape != W.shape:
                    raise ValueError(
                        f"params[{k}]: expected shape {slot.shape} as in the first update, "
                        f"got {W.shape}; use one optimizer for each list of params"
                    )
                _require_writable(f"state[{k}]", slot)

    def _numbers(self, t: int) -> tuple[float, ...]:
        """What `_function` takes last, at step number t, counted from 1."""
        return (self.lr,)


class SGD(_Optimizer):
    """W -= lr dW, after W *= 1 - lr weight_decay"""

    _function = "sgd_step"
    _keeps_still = True

    def __init__(
        self,
        lr: float = 0.01,
        *,
        weight_decay: float = 0.0,
        lazy: bool = False,
        ops: Ops | None = None,
    ) -> None:
        super().__init__(lr, ops, weight_decay, lazy)


class Momentum(_Optimizer):
    """v = momentum v - lr dW;  W += v, after W *= 1 - lr weight_decay

    The decay does not enter v, as it would by a penalty (PyTorch's `SGD`).
    """

    slots: ClassVar[tuple[str, ...]] = ("v",)
    _function = "momentum_step"
    momentum: float

    def __init__(
        self,
        lr: float = 0.01,
        momentum: float = 0.9,
        *,
        weight_decay: float = 0.0,
        lazy: bool = False,
        ops: Ops | None = None,
    ) -> None:
        super().__init__(lr, ops, weight_decay, lazy)
        self.momentum = as_fraction("momentum", momentum)

    def _numbers(self, t: int) -> tuple[float, ...]:
        return self.lr, self.momentum


class AdaGrad(_Optimizer):
    """h += dW^2;  W -= lr dW / (sqrt(h) + 1e-7)   (Duchi et al. 2011)"""

    slots: ClassVar[tuple[str, ...]] = ("h",)
    _function = "adagrad_step"
    _keeps_still = True

    def __init__(self, lr: float = 0.01, *, ops: Ops | None = None) -> None:
        super().__init__(lr, ops)


class RMSprop(_Optimizer):
    """h = decay_rate h + (1 - decay_rate) dW^2;  W -= lr dW / (sqrt(h) + 1e-7)

    (Tieleman and Hinton 2012)
    """

    slots: ClassVar[tuple[str, ...]] = ("h",)
    _function = "rmsprop_step"
    decay_rate: float

    def __init__(
        self,
        lr: float = 0.01,
        decay_rate: float = 0.99,
        *,
        lazy: bool = False,
        ops: Ops | None = None,
    ) -> None:
        super().__init__(lr, ops, lazy=lazy)
        self.decay_rate = as_fraction("decay_rate", decay_rate)

    def _numbers(self, t: int) -> tuple[float, ...]:
        return self.lr, self.decay_rate


class Adam(_Optimizer):
    """m += (1 - beta1) (dW - m);  v += (1 - beta2) (dW^2 - v);  W -= lr_t m / (sqrt(v) + 1e-7)

    with lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t) at step t (Kingma and Ba 2015, section 2).
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    _function = "adam_step"
    beta1: float
    beta2: float

    def __init__(
        self,
        lr: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        lazy: bool = False,
        ops: Ops | None = None,
    ) -> None:
        super().__init__(lr, ops, lazy=lazy)
        self.beta1 = as_fraction("beta1", beta1)
        self.beta2 = as_fraction("beta2", beta2)

    def _numbers(self, t: int) -> tuple[float, ...]:
        lr_t = self.lr * math.sqrt(1 - self.beta2**t) / (1 - self.beta1**t)
        return lr_t, self.beta1, self.beta2


class AdamW(Adam):
    """`Adam`, after W *= 1 - lr weight_decay   (Loshchilov and Hutter 2019)

    PyTorch's `AdamW` adds its epsilon to sqrt(v / (1 - beta2^t)), this one 1e-7 to sqrt(v), as the
    textbook's `Adam`: at step t that is an epsilon of 1e-7 / sqrt(1 - beta2^t). PyTorch's decays
    biases too, unless they are told apart in groups.
    """

    def __init__(
        self,
        lr: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        weight_decay: float = 0.01,
        *,
        lazy: bool = False,
        ops: Ops | None = None,
    ) -> None:
        super().__init__(lr, beta1, beta2, lazy=lazy, ops=ops)
        self.weight_decay = _as_decay(weight_decay)


def _as_decay(value: Any) -> float:
    if not 0 <= as_real(value) < math.inf:
        raise ValueError(f"weight_decay: expected a finite number of at least 0, got {value!r}")
    return float(value)


def gradient_norm(grads: Sequence[Array], *, ops: Ops | None = None, rows: Rows = None) -> float:
    """Common L2 norm of all grads. Not finite if, and only if, one of their numbers is not.

    Where the squares overflow float64, the grads are scaled first. A norm that is itself beyond
    float64 counts as the largest number there is. `ops` and `rows` as in the optimizers: rows that
    are zero and left out change no bit.
    """
    total = sum(_for_all("sum_of_squares", ops, grads, rows))
    if math.isfinite(total):
        return math.sqrt(total)
    if rows is not None:
        grads = [dW if own is None else dW[own] for dW, own in zip(grads, rows, strict=True)]
    top = float(np.max([np.abs(dW).max() for dW in grads if dW.size]))  # NaN where one is
    if not math.isfinite(top):
        return top
    rest = sum(float(np.square(np.divide(dW, top, dtype=np.float64)).sum()) for dW in grads)
    return min(top * math.sqrt(rest), sys.float_info.max)


def clip_grads(
    grads: Sequence[Array],
    max_norm: float,
    *,
    ops: Ops | None = None,
    rows: Rows = None,
    norm: float | None = None,
) -> float:
    """Scale all grads in place so that their common L2 norm is at most `max_norm`.

    Returns the norm before clipping, a float; see `gradient_norm`. The scale is
    max_norm / (norm + 1e-6) where that is below 1, as in the textbook (Pascanu et al. 2013). A norm
    that is not finite changes nothing: look at what is returned. `ops` and `rows` as in the
    optimizers; `norm` is that of the grads where it is known, which saves computing it.
    """
    max_norm = as_above_zero("max_norm", max_norm)
    if norm is None:
        norm = gradient_norm(grads, ops=ops, rows=rows)
    rate = max_norm / (norm + 1e-6)
    if math.isfinite(norm) and rate < 1:
        _for_all("scale_arrays", ops, grads, rows, rate)
    return norm


def clip_values(
    grads: Sequence[Array], max_value: float, *, ops: Ops | None = None, rows: Rows = None
) -> float:
    """Bring every number of all grads, in place, into -max_value..max_value.

    Returns the norm before clipping, a float; see `gradient_norm`. A norm that is not finite
    changes nothing: look at what is returned. `ops` and `rows` as in the optimizers.
    """
    max_value = as_above_zero("max_value", max_value)
    norm = gradient_norm(grads, ops=ops, rows=rows)
    if math.isfinite(norm):
        _for_all("clip_arrays", ops, grads, rows, max_value)
    return norm


def _for_all(
    name: str, ops: Ops | None, grads: Sequence[Array], rows: Rows, *numbers: float
) -> list[Any]:
    """What a function of `ops` returns for all grads, or else for each of them."""
    ops = kernels if ops is None else ops
    result = getattr(ops, name)(grads, rows, *numbers) if ops is kernels else None
    if _taken(result):
        return [result]
    if numbers:  # with which they are changed: all or none
        for k, dW in enumerate(grads):
            _require_writable(f"grads[{k}]", dW)
    changed = grads if numbers else []
    return _one_by_one(name, ops, (grads, _checked_rows(grads, rows)), numbers, changed)


def _one_by_one(
    name: str,
    ops: Ops,
    lists: Sequence[Sequence[Any]],
    numbers: Sequence[float],
    changed: Sequence[Array],
) -> list[Any]:
    """What a function of `ops` returns for each array, that in NumPy where it does not take it.

    An error, of memory that there is not, leaves the arrays that would be changed as they were;
    `ops` in NumPy, the reference, saves itself the copies for that.
    """
    before = [W.copy() for W in changed] if ops is kernels else []
    results = []
    try:
        for own in zip(*lists, strict=True):
            arguments = [[item] for item in own]
            result = getattr(ops, name)(*arguments, *numbers)
            if not _taken(result):
                result = getattr(numpy_ops, name)(*arguments, *numbers)
            results.append(result)
    except BaseException:
        for W, old in zip(changed, before, strict=False):
            W[...] = old
        raise
    return results


def _taken(result: bool | float | None) -> bool:
    """Whether a function of `ops` has done what it should."""
    return result is not None and result is not False


def _require_writable(name: str, array: Array) -> None:
    if array.dtype.kind != "f" or not array.flags.writeable:
        raise ValueError(
            f"{name}: expected a writable array of floats, got "
            f"{'' if array.flags.writeable else 'read-only '}{array.dtype}; hand over a copy of it"
        )


def _checked_rows(arrays: Sequence[Array], rows: Rows) -> Sequence[Ids | None]:
    """An entry for each of the arrays; ValueError for what are not rows of it."""
    if rows is None:
        return [None] * len(arrays)
    if len(rows) != len(arrays):
        raise ValueError(
            f"rows: expected an entry for each of {len(arrays)} arrays, got {len(rows)}"
        )
    for k, (array, own) in enumerate(zip(arrays, rows, strict=True)):
        if own is None:
            continue
        if not isinstance(own, np.ndarray) or own.ndim != 1 or own.dtype != np.int64:
            got = f"{own.dtype} {own.shape}" if isinstance(own, np.ndarray) else repr(own)
            raise ValueError(f"rows[{k}]: expected None or an int64 array of one axis, got {got}")
        if array.ndim < 2:
            raise ValueError(f"rows[{k}]: expected None for an array of shape {array.shape}")
        bad = (own < 0) | (own >= len(array)) | (np.diff(own, prepend=-1) <= 0)
        if bad.any():
            raise ValueError(
                f"rows[{k}]: expected increasing numbers in 0..{len(array) - 1}, got "
                f"{own[bad][0]} at position {bad.argmax()}; numpy.unique sorts them"
            )
    return rows
