"""Affine layers. N batch rows, T time steps, D input size, M output size."""

from .._checks import as_floats, unshared
from .._ops import Ops
from .._types import Array, ArrayLike, Precision, Sizes
from .base import Multiplying


class Affine(Multiplying):
    """The weights W (D, M) and b (M,), and x W + b at every position."""

    def __init__(
        self, W: Array, b: Array, *, precision: Precision | None = None, ops: Ops | None = None
    ) -> None:
        super().__init__(ops, precision, W=W, b=b)

    def _shapes(self) -> tuple[Sizes, ...]:
        columns = self.params[0].shape[-1] if self.params[0].ndim else "M"
        return ("D", columns), (columns,)

    def infer(self, x: ArrayLike) -> Array:
        """x (N, T, D) -> x W + b, (N, T, M), with nothing kept for backward."""
        W, b = self._checked_params()
        x = as_floats("x", x, W.dtype, ("N", "T", len(W)))
        out: Array = self._ops.affine_forward(x, W, b, **self._products)
        return out


class TimeAffine(Affine):
    """x W + b at every position.

    Parameters
    ----------
    W : array (D, M), float32 or float64; may be the transpose of an embedding's table, whose
        memory it then shares (`grads` does not: whoever ties the weights adds the two gradients,
        as the models of this package do)
    b : array (M,)
    precision : "bfloat16", or the dtype of the weights, or None, keyword-only (like what follows)
        "bfloat16", of weights in float32 alone, rounds the operands of products to bf16: x and W,
        and in backward the gradient of the output. Sums, b, and gradients stay float32, which are
        those of the rounded operands, and pass the rounding as they are. None is the dtype.
    ops : module with the arithmetic

    Attributes
    ----------
    precision : "bfloat16", "float32" or "float64"

    Raises
    ------
    TypeError, ValueError
        Where a dtype or a shape does not fit, here and in `forward` and `backward`; for another
        precision, or "bfloat16" with weights in float64.
    """

    def forward(self, x: ArrayLike) -> Array:
        """x (N, T, D) -> (N, T, M)."""
        W, b = self._checked_params()
        own = as_floats("x", x, W.dtype, ("N", "T", len(W)))
        out: Array = self._ops.affine_forward(own, W, b, **self._products)
        self._keep(unshared(own, x))  # backward needs it unchanged
        return out

    def backward(self, dout: ArrayLike) -> Array:
        """Gradient (N, T, M) of the output -> gradient of x (N, T, D); fills `grads`."""
        W, b = self._checked_params()
        x, grads = self._require_cache(), self._writable_grads()
        dout = as_floats("dout", dout, W.dtype, (*x.shape[:2], len(b)))
        dx: Array = self._ops.affine_backward(dout, x, W, *grads, **self._products)
        return dx
