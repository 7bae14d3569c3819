"""Optimizers with the textbook's interface: `update(params, grads)` changes the params in place.

State is made at the first update, one entry for each parameter, in the order of the list; hand the
same list to every call. `state` is what a checkpoint must keep besides `lr`.

`ops`, keyword-only, is where the steps are taken from: the compiled `rnnfast.kernels` unless told
otherwise, or `rnnfast.reference.ops`, the same in NumPy. Arrays that the compiled steps do not take
(of another dtype, or with gaps) get those in NumPy anyway.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from .._checks import FLOATS, as_above_zero, as_fraction
from .._ops import HasOps, Ops
from .._types import Array
from ..reference import ops as numpy_ops


class _Optimizer(HasOps):
    """`slots` are names of the arrays that an optimizer keeps for each parameter.

    Attributes
    ----------
    lr : learning rate; may be set
    steps : how many updates there were
    state : list of tuples of arrays, for each parameter those of `slots`
    """

    slots: ClassVar[tuple[str, ...]] = ()
    lr: float
    steps: int
    state: list[tuple[Array, ...]]

    def __init__(self, lr: float, ops: Ops | None) -> None:
        super().__init__(ops)
        self.lr = as_above_zero("lr", lr)
        self.steps = 0
        self.state = []

    def update(self, params: Sequence[Array], grads: Sequence[Array]) -> None:
        """Take one step; params and grads are lists of arrays of matching shapes."""
        if len(params) != len(grads):
            raise ValueError(f"grads: expected {len(params)} arrays as in params, got {len(grads)}")
        for k, (W, dW) in enumerate(zip(params, grads, strict=True)):
            if W.shape != dW.shape or dW.dtype.kind not in "fiub":
                raise ValueError(
                    f"grads[{k}]: expected real numbers of shape {W.shape}, "
                    f"got {dW.dtype} {dW.shape}"
                )
            if W.dtype.kind != "f" or not W.flags.writeable:
                raise ValueError(
                    f"params[{k}]: expected a writable array of floats, got "
                    f"{'' if W.flags.writeable else 'read-only '}{W.dtype}; hand over a copy of it"
                )
        if not self.steps:
            self.state = [tuple(np.zeros_like(W) for _ in self.slots) for W in params]
        elif len(self.state) != len(params):
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
        self.steps += 1
        for W, dW, slots in zip(params, grads, self.state, strict=True):
            self._step(*_flat(self.ops, W, dW, *slots))

    def _step(self, ops: Ops, W: Array, dW: Array, *slots: Array) -> None:
        raise NotImplementedError


class SGD(_Optimizer):
    """W -= lr dW"""

    def __init__(self, lr: float = 0.01, *, ops: Ops | None = None) -> None:
        super().__init__(lr, ops)

    def _step(self, ops: Ops, W: Array, dW: Array, *slots: Array) -> None:
        ops.sgd_step(W, dW, self.lr)


class Momentum(_Optimizer):
    """v = momentum v - lr dW;  W += v"""

    slots: ClassVar[tuple[str, ...]] = ("v",)
    momentum: float

    def __init__(self, lr: float = 0.01, momentum: float = 0.9, *, ops: Ops | None = None) -> None:
        super().__init__(lr, ops)
        self.momentum = as_fraction("momentum", momentum)

    def _step(self, ops: Ops, W: Array, dW: Array, *slots: Array) -> None:
        (v,) = slots
        ops.momentum_step(W, dW, v, self.lr, self.momentum)


class AdaGrad(_Optimizer):
    """h += dW^2;  W -= lr dW / (sqrt(h) + 1e-7)   (Duchi et al. 2011)"""

    slots: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(self, lr: float = 0.01, *, ops: Ops | None = None) -> None:
        super().__init__(lr, ops)

    def _step(self, ops: Ops, W: Array, dW: Array, *slots: Array) -> None:
        (h,) = slots
        ops.adagrad_step(W, dW, h, self.lr)


class RMSprop(_Optimizer):
    """h = decay_rate h + (1 - decay_rate) dW^2;  W -= lr dW / (sqrt(h) + 1e-7)

    (Tieleman and Hinton 2012)
    """

    slots: ClassVar[tuple[str, ...]] = ("h",)
    decay_rate: float

    def __init__(
        self, lr: float = 0.01, decay_rate: float = 0.99, *, ops: Ops | None = None
    ) -> None:
        super().__init__(lr, ops)
        self.decay_rate = as_fraction("decay_rate", decay_rate)

    def _step(self, ops: Ops, W: Array, dW: Array, *slots: Array) -> None:
        (h,) = slots
        ops.rmsprop_step(W, dW, h, self.lr, self.decay_rate)


class Adam(_Optimizer):
    """m += (1 - beta1) (dW - m);  v += (1 - beta2) (dW^2 - v);  W -= lr_t m / (sqrt(v) + 1e-7)

    with lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t) at step t (Kingma and Ba 2015, section 2).
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    beta1: float
    beta2: float

    def __init__(
        self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, *, ops: Ops | None = None
    ) -> None:
        super().__init__(lr, ops)
        self.beta1 = as_fraction("beta1", beta1)
        self.beta2 = as_fraction("beta2", beta2)

    def _step(self, ops: Ops, W: Array, dW: Array, *slots: Array) -> None:
        m, v = slots
        t = self.steps
        lr_t = float(self.lr * np.sqrt(1 - self.beta2**t) / (1 - self.beta1**t))
        ops.adam_step(W, dW, m, v, lr_t, self.beta1, self.beta2)


def gradient_norm(grads: Sequence[Array], *, ops: Ops | None = None) -> float:
    """Common L2 norm of all grads. Not finite if, and only if, one of their numbers is not.

    Where the squares overflow float64, the grads are scaled first. A norm that is itself beyond
    float64 counts as the largest number there is. `ops` as in the optimizers.
    """
    with np.errstate(over="ignore"):
        total = 0.0
        for dW in grads:
            own, flat = _flat(kernels if ops is None else ops, dW)
            total += own.sum_of_squares(flat)
    if math.isfinite(total):
        return math.sqrt(total)
    top = float(np.max([np.abs(dW).max() for dW in grads if dW.size]))  # NaN where one is
    if not math.isfinite(top):
        return top
    rest = sum(float(np.square(np.divide(dW, top, dtype=np.float64)).sum()) for dW in grads)
    return min(top * math.sqrt(rest), sys.float_info.max)


def clip_grads(grads: Sequence[Array], max_norm: float, *, ops: Ops | None = None) -> float:
    """Scale all grads in place so that their common L2 norm is at most `max_norm`.

    Returns the norm before clipping, a float; see `gradient_norm`. The scale is
    max_norm / (norm + 1e-6) where that is below 1, as in the textbook (Pascanu et al. 2013). A norm
    that is not finite changes nothing: look at what is returned. `ops` as in the optimizers.
    """
    max_norm = as_above_zero("max_norm", max_norm)
    norm = gradient_norm(grads, ops=ops)
    rate = max_norm / (norm + 1e-6)
    if math.isfinite(norm) and rate < 1:
        for dW in grads:
            own, flat = _flat(kernels if ops is None else ops, dW)
            own.scale_array(flat, rate)
    return norm


def _flat(ops: Ops, *arrays: Array) -> tuple[Any, ...]:
    """`ops`, and the arrays as flat views, where they agree in dtype and in the order of their
    numbers; where they are not contiguous, differ, or are neither float32 nor float64, the steps
    in NumPy, and the arrays as they are."""
    dtype = arrays[0].dtype
    fit, rows, columns = dtype in FLOATS, True, True
    for array in arrays:
        flags = array.flags
        fit = fit and flags.aligned and array.dtype == dtype
        rows, columns = rows and flags.c_contiguous, columns and flags.f_contiguous
    if fit and rows:
        return ops, *[array.reshape(-1) for array in arrays]
    if fit and columns:
        return ops, *[array.T.reshape(-1) for array in arrays]
    return numpy_ops, *arrays
