"""Optimizers with the textbook's interface: `update(params, grads)` changes the params in place.

State is made at the first update, one entry for each parameter, in the order of the list; hand the
same list to every call. `state` is what a checkpoint must keep besides `lr`.

`ops`, keyword-only, is where the steps are taken from: the compiled `rnnfast.kernels` unless told
otherwise, or `rnnfast.reference.ops`, the same in NumPy. Arrays that the compiled steps do not take
(of another dtype, or with gaps) get those in NumPy anyway.
"""

from numbers import Real

import numpy as np

from .. import kernels
from .._checks import FLOATS, as_above_zero
from .._ops import HasOps
from ..reference import ops as numpy_ops


class _Optimizer(HasOps):
    """`slots` is how many arrays an optimizer keeps for each parameter."""

    slots = 0

    def __init__(self, lr, ops):
        super().__init__(ops)
        self.lr = as_above_zero("lr", lr)
        self.steps = 0
        self.state = []

    def update(self, params, grads):
        """Take one step; params and grads are lists of arrays of matching shapes."""
        if len(params) != len(grads):
            raise ValueError(f"grads: expected {len(params)} arrays as in params, got {len(grads)}")
        for k, (W, dW) in enumerate(zip(params, grads, strict=True)):
            if W.shape != dW.shape:
                raise ValueError(f"grads[{k}]: expected shape {W.shape}, got {dW.shape}")
            if W.dtype.kind != "f" or not W.flags.writeable:
                raise ValueError(
                    f"params[{k}]: expected a writable array of floats, got "
                    f"{'' if W.flags.writeable else 'read-only '}{W.dtype}; hand over a copy of it"
                )
        if not self.steps:
            self.state = [tuple(np.zeros_like(W) for _ in range(self.slots)) for W in params]
        elif len(self.state) != len(params):
            raise ValueError(
                f"params: expected the {len(self.state)} arrays of the first update, "
                f"got {len(params)}; use one optimizer for each list of params"
            )
        for k, (W, slots) in enumerate(zip(params, self.state, strict=True)):
            if any(slot.shape != W.shape for slot in slots):
                raise ValueError(
                    f"params[{k}]: expected shape {slots[0].shape} as in the first update, "
                    f"got {W.shape}; use one optimizer for each list of params"
                )
        self.steps += 1
        for W, dW, slots in zip(params, grads, self.state, strict=True):
            self._step(*_flat(self.ops, W, dW, *slots))

    def _step(self, ops, W, dW, *slots):
        raise NotImplementedError


class SGD(_Optimizer):
    """W -= lr dW"""

    def __init__(self, lr=0.01, *, ops=None):
        super().__init__(lr, ops)

    def _step(self, ops, W, dW):
        ops.sgd_step(W, dW, self.lr)


class Momentum(_Optimizer):
    """v = momentum v - lr dW;  W += v"""

    slots = 1

    def __init__(self, lr=0.01, momentum=0.9, *, ops=None):
        super().__init__(lr, ops)
        self.momentum = _fraction("momentum", momentum)

    def _step(self, ops, W, dW, v):
        ops.momentum_step(W, dW, v, self.lr, self.momentum)


class AdaGrad(_Optimizer):
    """h += dW^2;  W -= lr dW / (sqrt(h) + 1e-7)   (Duchi et al. 2011)"""

    slots = 1

    def __init__(self, lr=0.01, *, ops=None):
        super().__init__(lr, ops)

    def _step(self, ops, W, dW, h):
        ops.adagrad_step(W, dW, h, self.lr)


class RMSprop(_Optimizer):
    """h = decay_rate h + (1 - decay_rate) dW^2;  W -= lr dW / (sqrt(h) + 1e-7)

    (Tieleman and Hinton 2012)
    """

    slots = 1

    def __init__(self, lr=0.01, decay_rate=0.99, *, ops=None):
        super().__init__(lr, ops)
        self.decay_rate = _fraction("decay_rate", decay_rate)

    def _step(self, ops, W, dW, h):
        ops.rmsprop_step(W, dW, h, self.lr, self.decay_rate)


class Adam(_Optimizer):
    """m += (1 - beta1) (dW - m);  v += (1 - beta2) (dW^2 - v);  W -= lr_t m / (sqrt(v) + 1e-7)

    with lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t) at step t (Kingma and Ba 2015, section 2).
    """

    slots = 2

    def __init__(self, lr=0.001, beta1=0.9, beta2=0.999, *, ops=None):
        super().__init__(lr, ops)
        self.beta1 = _fraction("beta1", beta1)
        self.beta2 = _fraction("beta2", beta2)

    def _step(self, ops, W, dW, m, v):
        t = self.steps
        lr_t = float(self.lr * np.sqrt(1 - self.beta2**t) / (1 - self.beta1**t))
        ops.adam_step(W, dW, m, v, lr_t, self.beta1, self.beta2)


def clip_grads(grads, max_norm, *, ops=None):
    """Scale all grads in place so that their common L2 norm is at most `max_norm`.

    Returns the norm before clipping, a float. The scale is max_norm / (norm + 1e-6) where that is
    below 1, as in the textbook (Pascanu et al. 2013). A norm that is not finite changes nothing:
    look at what is returned. `ops` as in the optimizers.
    """
    max_norm = as_above_zero("max_norm", max_norm)
    flat = [_flat(kernels if ops is None else ops, dW) for dW in grads]
    norm = float(np.sqrt(sum(ops.sum_of_squares(dW) for ops, dW in flat)))
    rate = max_norm / (norm + 1e-6)
    if np.isfinite(norm) and rate < 1:
        for ops, dW in flat:
            ops.scale_array(dW, rate)
    return norm


def _flat(ops, *arrays):
    """`ops`, and the arrays as flat views, where they agree in dtype and in the order of their
    numbers; where they are not contiguous, differ, or are neither float32 nor float64, the steps
    in NumPy, and the arrays as they are."""
    dtype = arrays[0].dtype
    if dtype in FLOATS and all(a.dtype == dtype and a.flags.aligned for a in arrays):
        if all(array.flags.c_contiguous for array in arrays):
            return ops, *(array.reshape(-1) for array in arrays)
        if all(array.flags.f_contiguous for array in arrays):
            return ops, *(array.T.reshape(-1) for array in arrays)
    return numpy_ops, *arrays


def _fraction(name, value):
    if not (isinstance(value, Real) and 0 <= value < 1):
        raise ValueError(f"{name}: expected a number in 0 <= {name} < 1, got {value!r}")
    return float(value)
